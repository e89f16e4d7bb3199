"""What all records have in common: the document, and bytes as JSON shows them."""

from __future__ import annotations

import base64
from typing import ClassVar

import msgspec

SCHEMA_VERSION = 1


class Base64(msgspec.Struct, frozen=True):
    """Bytes that are not UTF-8."""

    base64: str


Text = str | Base64


def text_of(data: bytes) -> Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(base64.b64encode(data).decode())


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a verb prints. `ROWS` names the field that is its list, if it is one: then jsonl prints
    a line for each row, joined by the fields of `LINE_FIELDS`. `TABLE_OMITS`: columns of rows that
    would make a table too wide to read; every other form has them."""

    ROWS: ClassVar[str] = ""
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version",)
    COLUMNS: ClassVar[tuple[str, ...]] = ()  # of table and plain, if not all fields of a row
    TABLE_OMITS: ClassVar[tuple[str, ...]] = ()  # of table only

    schema_version: int = SCHEMA_VERSION


class CountRow(msgspec.Struct, frozen=True, kw_only=True):
    """How often something of a kind happened."""

    kind: str
    count: int
