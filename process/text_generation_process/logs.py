"""Log lines: one JSON object per line between the processes, and what a person or a collector sees
at the end.

A child writes records to standard output as JSON with the keys `timestamp` (RFC 3339, UTC),
`level`, `target` (the logger's name), `message`, further fields that `extra={"fields": {...}}`
named, and `exception` (the last line of it) where there is one. The launcher reads them with
`decode` and writes them again, for people or as JSON.
"""

import io
import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Level = Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]


class JsonFormatter(logging.Formatter):
    """One record, one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = traceback.format_exception_only(record.exc_info[1])[-1].strip()
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z  INFO launcher: message key=value`, coloured on a terminal."""

    _COLOURS: Mapping[str, str] = {
        "DEBUG": "\x1b[34m",
        "INFO": "\x1b[32m",
        "WARNING": "\x1b[33m",
        "ERROR": "\x1b[31m",
    }

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:>7}"
        if self._colour:
            level = f"{self._COLOURS.get(record.levelname, '')}{level}\x1b[0m"
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        shown = "".join(f" {key}={value}" for key, value in fields.items() if key != "traceback")
        line = f"{_timestamp(record)} {level} {record.name}: {record.getMessage()}{shown}"
        for trace in (fields.get("traceback"), self._own_traceback(record)):
            if trace:
                line += "\n" + trace
        return line

    def _own_traceback(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream whose reader may leave: what nobody reads is no error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Tell of a record that could not be written, as long as somebody listens."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def setup(*, level: Level, as_json: bool, stream: TextIO | None = None) -> None:
    """Send the root logger's records to one stream (standard output), as JSON or for a person.

    JSON is UTF-8 whatever the locale says; a character that cannot be written is shown as its
    escape, not lost with its line.
    """
    target = sys.stdout if stream is None else stream
    if isinstance(target, io.TextIOWrapper):
        target.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")
    handler = LineHandler(target)
    handler.setFormatter(JsonFormatter() if as_json else HumanFormatter(colour=target.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if level == "TRACE" else level)


def decode(line: str) -> dict[str, Any] | None:
    """The record that a child wrote, or None if the line is not one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"level", "target", "message"} <= record.keys():
        return None
    return record


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
