"""Real input: the running Python's standard library, file by file and word by word.

`key = path, value = bytes` for every file, and one record for each distinct identifier in the
Python files among them. Files over the value limit are sent too, and must be refused by name.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dynagent import limits

_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_NOT_STDLIB = ("site-packages", "__pycache__")  # installed by others; rewritten while we run


class Corpus:
    """What is stored. `share` keeps every 1/share-th file and identifier (1.0: all)."""

    def __init__(self, share: float) -> None:
        root = Path(sysconfig.get_paths()["stdlib"])
        every = max(1, round(1 / share))
        files = [path for path in sorted(root.rglob("*")) if _is_ours(path, root)]
        self.files: dict[bytes, Path] = {}  # key → file, within the limit
        self.large: dict[bytes, Path] = {}  # key → file, over it
        for path in files[::every] if every > 1 else files:
            key = str(path.relative_to(root)).encode()
            kept = self.files if path.stat().st_size <= limits.MIB else self.large
            kept[key] = path
        if not self.large:  # a thinned corpus still shows one refusal, if there is one to show
            large = [path for path in files if path.stat().st_size > limits.MIB][:1]
            self.large = {str(path.relative_to(root)).encode(): path for path in large}
        self.identifiers = _identifiers([p for p in files if p.suffix == ".py"])[::every]

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything that must be stored: (key, value)."""
        for key, path in self.files.items():
            yield b"file/" + key, path.read_bytes()
        for identifier in self.identifiers:
            yield b"word/" + identifier, value_of(identifier)

    def __len__(self) -> int:
        return len(self.files) + len(self.identifiers)


def value_of(identifier: bytes) -> bytes:
    """The value of a word's record: the word three times, so that no two are alike."""
    return b"%b %b %b" % (identifier, identifier[::-1], identifier)


def _is_ours(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and not any(part in _NOT_STDLIB for part in parts)


def _identifiers(files: list[Path]) -> list[bytes]:
    found: set[bytes] = set()
    for path in files:
        found.update(_IDENTIFIER.findall(path.read_bytes()))
    return sorted(word for word in found if len(word) <= 512)
