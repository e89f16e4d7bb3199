"""Which agents to speak to: flags, then the environment, then the user's files.

    --endpoint  >  DYNCTL_ENDPOINTS  >  the current context of the config file  >  the local cluster

Endpoints are tried in the order given; one that is down costs at most `limits.CONNECT_S_MAX`.
"""

from __future__ import annotations

import os

from dynagent.address import format_address, parse_address
from dynagent.errors import BadRequest, ConfigError, Unreachable
from dynctl.settings import cluster_path, config_path, read_pairs


def find(flags: list[str]) -> list[str]:
    """The endpoints, at least one. Raises `BadRequest` or `ConfigError` naming the place of a
    malformed one, `Unreachable` if nothing names any."""
    if flags:
        return _checked(flags, "--endpoint", BadRequest)
    variable = os.environ.get("DYNCTL_ENDPOINTS", "")
    if variable.strip():
        return _checked(variable.split(","), "DYNCTL_ENDPOINTS", BadRequest)
    path = config_path()
    config = read_pairs(path) or {}
    for name in config:
        if name != "current" and not name.endswith(".endpoints"):
            raise ConfigError(
                f"{path}: {name!r} is unknown; write current=NAME and NAME.endpoints=host:port,…"
            )
    if current := config.get("current"):
        listed = config.get(f"{current}.endpoints", "")
        if not listed:
            raise ConfigError(f"{path}: current={current}, but there is no {current}.endpoints=")
        return _checked(listed.split(","), f"{path}: {current}.endpoints", ConfigError)
    path = cluster_path()
    if listed := (read_pairs(path) or {}).get("endpoints", ""):
        return _checked(listed.split(","), path, ConfigError)
    raise Unreachable(
        "no cluster is named; say --endpoint host:port, set DYNCTL_ENDPOINTS, or start one here "
        "with: dynctl up"
    )


def check(addresses: list[str], source: str) -> list[str]:
    """The same addresses, each with its port; raises `BadRequest` for one that is none."""
    return _checked(addresses, source, BadRequest)


def _checked(
    endpoints: list[str], source: str, kind: type[BadRequest] | type[ConfigError]
) -> list[str]:
    found: list[str] = []
    for endpoint in filter(None, map(str.strip, endpoints)):
        try:
            host, port = parse_address(endpoint)
        except BadRequest as exc:
            raise kind(f"{source}: {exc.message}") from exc
        if port == 0:
            raise kind(f"{source}: {endpoint!r} has port 0; an agent listens on 1 to 65535")
        found.append(format_address(host, port))
    if not found:
        raise kind(f"{source} is empty; write host:port")
    return found
