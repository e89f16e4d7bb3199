"""How a tour is told: titles, reasons, commands and what they printed.

Styled, and cut to the terminal's width, on a terminal only.
"""

from __future__ import annotations

from dynctl import streams
from dynctl.render import new_console, trimmed

_WIDTH_MAX = 88
_LINES_MAX = 6  # of one command's output
_ESCAPE = str.maketrans({"\x1b": "\\x1b", "\r": "\\r", "\t": "   "})


class Narrator:
    """Tells on stdout; `silent` tells nothing. `color`: auto, always or never."""

    def __init__(self, color: str, *, silent: bool = False) -> None:
        self._console = None if silent else new_console(color)
        self._columns = self._console.width if self._console else _WIDTH_MAX

    def title(self, place: str, text: str, why: str) -> None:
        from textwrap import wrap

        self._say("")
        self._say(f"{place}  {text}", "bold")
        for line in wrap(why, min(_WIDTH_MAX, self._columns) - 2):
            self._say(f"  {line}")

    def command(self, line: str) -> None:
        self._say(f"  $ {line}", "cyan")

    def output(self, text: str) -> None:
        """What a command printed, its first lines."""
        lines = text.splitlines()
        for line in lines[:_LINES_MAX]:
            told = f"    {line.translate(_ESCAPE)}"
            cut = told if len(told) <= self._columns else told[: self._columns - 1] + "…"
            self._say(cut, "dim")
        if len(lines) > _LINES_MAX:
            self._say(f"    … {len(lines) - _LINES_MAX} more lines", "dim")

    def note(self, text: str) -> None:
        self._say(f"  {text}")

    def held(self, text: str, seconds: float) -> None:
        self._say(f"  ✓ {text} ({seconds:.1f}s)", "green")

    def failed(self, text: str) -> None:
        self._say(f"  ✗ {text}", "bold red")

    def _say(self, text: str, style: str = "") -> None:
        if self._console is None:
            return
        from rich.text import Text

        with self._console.capture() as capture:
            self._console.print(Text(text, style=style), soft_wrap=True)
        streams.emit_text(trimmed(capture.get()))
