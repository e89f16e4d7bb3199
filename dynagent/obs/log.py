"""One event a line on stderr: logfmt for people, JSON by flag. Events are `area.what_happened`."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_LOGGER = logging.getLogger("dynagent")


def log(level: int, event: str, **fields: object) -> None:
    """Writes one event; `fields` are plain values, bytes are shown as text or hex."""
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, event, extra={"fields": fields})


def setup(*, level: str, form: str) -> None:
    """Sends events to stderr. `level`: debug, info, warning, error; `form`: logfmt or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Logfmt())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level.upper())
    _LOGGER.propagate = False


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return text if text.isprintable() and "\ufffd" not in text else value.hex()
    if isinstance(value, str | int | float) or value is None:
        return value
    return str(value)


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pairs = [f"time={_time(record)}", f"level={record.levelname.lower()}"]
        pairs.append(f"event={record.getMessage()}")
        fields: dict[str, object] = getattr(record, "fields", {})
        pairs += [f"{name}={_quoted(_plain(value))}" for name, value in fields.items()]
        if record.exc_info:
            pairs.append(f"trace={_quoted(self.formatException(record.exc_info))}")
        return " ".join(pairs)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        line: dict[str, object] = {"time": _time(record), "level": record.levelname.lower()}
        line["event"] = record.getMessage()
        line.update({name: _plain(value) for name, value in fields.items()})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    text = str(value)
    if text and not any(sign in text for sign in ' "=\n\r\t'):
        return text
    return json.dumps(text, ensure_ascii=False)
