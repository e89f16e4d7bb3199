"""One document, four forms: table | plain | json | jsonl.

table    columns for people; colour and the terminal's width only on a terminal
plain    a line for each row, fields separated by tabs, no header; for cut and awk
json     the document, indented
jsonl    a line for each row (or the document in one line, if it has no rows)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from dynctl import streams
from dynctl.views.base import Document

if TYPE_CHECKING:
    from rich.console import Console

_HIGHLIGHTS = {
    "up": "green",
    "serving": "green",
    "yes": "green",
    "down": "bold red",
    "no": "bold red",
    "unlinked": "yellow",
    "suspect": "yellow",
    "gray": "yellow",
    "dead": "bold red",
    "unreachable": "yellow",
    "draining": "yellow",
}


def show(document: Document, form: str, color: str) -> None:
    """Writes it to stdout. `form`: one of `options.FORMS`; `color`: auto, always or never."""
    if form == "json":
        streams.emit(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    elif form == "jsonl":
        streams.emit(b"".join(msgspec.json.encode(line) + b"\n" for line in _lines(document)))
    elif form == "plain":
        rows = [row for _title, _columns, rows in _tables(document) for row in rows]
        streams.emit_text("".join("\t".join(map(_escape, row)) + "\n" for row in rows))
    else:
        streams.emit_text(_table_text(document, color))


def default_form() -> str:
    return "table" if streams.stdout_is_terminal() else "plain"


def _lines(document: Document) -> list[dict[str, Any]]:
    fields = msgspec.structs.asdict(document)
    if not document.ROWS:
        return [fields]
    joined = {name: fields[name] for name in document.LINE_FIELDS}
    return [{**joined, **msgspec.structs.asdict(row)} for row in fields[document.ROWS]]


def line_type(document: type[Document]) -> Any:
    """The type of a line of jsonl, for its schema."""
    if not document.ROWS:
        return document
    fields = {field.name: field for field in msgspec.structs.fields(document)}
    (row,) = fields[document.ROWS].type.__args__
    joined = [(name, fields[name].type) for name in document.LINE_FIELDS]
    rows = [(field.name, field.type) for field in msgspec.structs.fields(row)]
    return msgspec.defstruct(f"{document.__name__}Line", joined + rows)


# --- rows of text --------------------------------------------------------------------------------

_Table = tuple[str, list[str], list[list[str]]]


def _tables(document: Document, omits: tuple[str, ...] = ()) -> list[_Table]:
    """(title, columns, rows): the rows of a document, or its fields and then its lists."""
    fields = msgspec.structs.asdict(document)
    if document.ROWS:
        return [_rows(document.ROWS, fields[document.ROWS], omits, document.COLUMNS)]
    lists = {name: value for name, value in fields.items() if _is_rows(value)}
    singles = [
        [name, _cell(value)]
        for name, value in fields.items()
        if name not in lists and name != "schema_version"
    ]
    tables: list[_Table] = [("", ["", ""], singles)]
    return tables + [_rows(name, value, omits) for name, value in lists.items()]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], msgspec.Struct)


def _rows(
    title: str, rows: list[Any], omits: tuple[str, ...], chosen: tuple[str, ...] = ()
) -> _Table:
    columns = list(chosen or rows[0].__struct_fields__) if rows else []
    columns = [name for name in columns if name not in omits]
    return title, columns, [[_cell(getattr(row, name)) for name in columns] for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, msgspec.Struct):  # bytes that are no text
        return str(getattr(value, "base64", value))
    return str(value)


_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\", "\x1b": "\\x1b"})


def _escape(cell: str) -> str:
    return cell.translate(_ESCAPES)


# --- the table -----------------------------------------------------------------------------------


_WHOLE = 40  # cells: no column is made narrower than its contents or that
_GAP = 2


def _table_text(document: Document, color: str) -> str:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = new_console(color)
    screen = console.width
    with console.capture() as capture:
        for title, columns, rows in _tables(document, document.TABLE_OMITS):
            table = Table(box=None, pad_edge=False, show_header=any(columns), header_style="bold")
            cells = [[_escape(cell) for cell in row] for row in rows]
            width = 0
            for place, column in enumerate(columns):
                widest = max(map(cell_len, [column, *(row[place] for row in cells)]))
                table.add_column(column.upper(), overflow="fold", no_wrap=widest <= _WHOLE)
                width += min(widest, _WHOLE) + _GAP
            for row in cells:
                table.add_row(*(Text(cell, style=_HIGHLIGHTS.get(cell, "")) for cell in row))
            if title and not document.ROWS:
                console.print()
            # Too narrow a terminal breaks lines; broken addresses could be neither read nor copied.
            console.width = max(screen, width)
            console.print(table)
    return trimmed(capture.get())


def new_console(color: str) -> Console:
    """Rich's console for stdout. `color`: auto, always or never."""
    from rich.console import Console

    on_terminal = streams.stdout_is_terminal()
    colored = color == "always" or (
        color == "auto"
        and on_terminal
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
    return Console(
        force_terminal=colored,
        no_color=not colored,
        color_system="standard" if colored else None,
        width=None if on_terminal else 10_000,  # nothing is cut or folded in a file
        highlight=False,
    )


def trimmed(captured: str) -> str:
    """What a console has captured, without the blanks at the ends of its lines."""
    return "".join(line.rstrip(" ") + "\n" for line in captured.splitlines())
