"""Keys to stdout as they are found: the forms of `render`, without ever holding all of them.

plain    a line for each key        null     its bytes and a NUL
jsonl    a record for each key      json     one document, written in pieces
table    how many concurrent values it has, and the key
"""

from __future__ import annotations

import msgspec

from dynagent.client.listing import Listed
from dynctl import streams
from dynctl.views.base import SCHEMA_VERSION, Text, text_of
from dynctl.views.keys import KeyRow


class KeyWriter:
    """Writes pages of keys in one of the forms. Nothing is written before the first page or `end`,
    so that an early failure leaves stdout empty."""

    def __init__(self, form: str, prefix: str | None) -> None:
        self.count = 0
        self._form = form
        self._prefix: Text | None = None if prefix is None else text_of(_bytes(prefix))
        self._has_begun = False

    def write(self, page: list[Listed]) -> None:
        parts = [self._begin()]
        for listed in page:
            parts.append(self._row(listed))
            self.count += 1
        streams.emit(b"".join(parts))

    def end(self, token: str | None) -> None:
        """`token`: for what is left; None if that is nothing."""
        begun = self._begin()
        if self._form == "json":
            newline = b"\n  " if self.count else b""
            complete, resume = _json(token is None), _json(token)
            rest = b'],\n  "complete": ' + complete + b',\n  "resume": ' + resume + b"\n}\n"
            streams.emit(begun + newline + rest)
        elif begun:
            streams.emit(begun)

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        if self._form == "json":
            version, prefix = _json(SCHEMA_VERSION), _json(self._prefix)
            return b'{\n  "schema_version": %b,\n  "prefix": %b,\n  "keys": [' % (version, prefix)
        return b"SIBLINGS  KEY\n" if self._form == "table" else b""

    def _row(self, listed: Listed) -> bytes:
        if self._form == "null":
            return listed.key + b"\0"
        if self._form == "plain":
            return streams.show_line(listed.key).encode() + b"\n"
        if self._form == "table":
            return f"{len(listed.dots):<8}  {streams.show_line(listed.key)}\n".encode()
        row = KeyRow(key=text_of(listed.key), siblings=len(listed.dots))
        if self._form == "jsonl":
            return _json({"schema_version": SCHEMA_VERSION, **msgspec.structs.asdict(row)}) + b"\n"
        return (b",\n    " if self.count else b"\n    ") + _json(row)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
