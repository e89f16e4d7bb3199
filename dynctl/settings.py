"""Plain `key=value` files, and where the user's are: nothing here costs start-up time.

$XDG_CONFIG_HOME/dynctl/config     current=prod, prod.endpoints=a:7411,b:7411
$XDG_STATE_HOME/dynctl/cluster     dir=…, endpoints=…: the cluster that `dynctl up` started last
$XDG_STATE_HOME/dynctl/local/      where it keeps that cluster unless --dir says otherwise
"""

# No pathlib here: it would cost the command line 4 ms at each start.
# ruff: noqa: PTH103, PTH105, PTH111, PTH117, PTH118, PTH120, PTH123

from __future__ import annotations

import os

from dynagent.errors import ConfigError

_BYTES_MAX = 65_536  # a few lines; anything larger is some other file


def _xdg(variable: str, fallback: str) -> str:
    """The directory that the XDG rules name; a relative one is to be ignored."""
    path = os.environ.get(variable, "")
    return path if os.path.isabs(path) else os.path.expanduser(fallback)


def config_path() -> str:
    return os.path.join(_xdg("XDG_CONFIG_HOME", "~/.config"), "dynctl", "config")


def state_dir() -> str:
    return os.path.join(_xdg("XDG_STATE_HOME", "~/.local/state"), "dynctl")


def cluster_path() -> str:
    return os.path.join(state_dir(), "cluster")


def read_pairs(path: str) -> dict[str, str] | None:
    """The pairs of a file, None if there is none; `ConfigError` names the line that is no pair."""
    try:
        with open(path, "rb") as file:
            text = file.read(_BYTES_MAX + 1).decode()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not a text file of key=value lines") from exc
    if len(text) > _BYTES_MAX:
        raise ConfigError(f"{path} is over {_BYTES_MAX:,} bytes; it should be a few lines")
    pairs: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = stripped.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{path}:{number}: {stripped[:60]!r} is not key=value")
        pairs[key.strip()] = value.strip()
    return pairs


def write_pairs(path: str, pairs: dict[str, str]) -> None:
    """Writes the file whole or not at all; raises `ConfigError`."""
    lines = "".join(f"{key}={value}\n" for key, value in pairs.items())
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(lines)
        os.replace(temporary, path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot write it: {exc.strerror}") from exc
