"""Children's log lines, written again as the launcher's own.

A line that is a record keeps its time, level, logger and fields; any other line becomes the message
of a record, so that nothing a child says is lost and `--json-output` stays JSON throughout.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from text_generation_process.logs import decode

Record = Mapping[str, Any]
Observer = Callable[["Origin", Record], bool]  # True: shown by the observer, do not log it

_LEVELS: Mapping[str, int] = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}
_HEAD = ("timestamp", "level", "target", "message")


@dataclass(frozen=True)
class Origin:
    """Which child a line comes from: its program and, for a shard, its rank."""

    program: str
    rank: int | None = None

    def __str__(self) -> str:
        return self.program if self.rank is None else f"{self.program} {self.rank}"


class LastWords:
    """What to show when a child has died: its last error, else the end of its standard error."""

    def __init__(self) -> None:
        self._error: str | None = None
        self._lines: deque[str] = deque(maxlen=5)

    def __str__(self) -> str:
        return self._error or "\n".join(self._lines)

    def note_record(self, record: Record) -> None:
        if _level(record) < logging.ERROR:
            return
        message, exception = str(record["message"]), str(record.get("exception") or "")
        shown = message if exception in message else f"{message}: {exception}"
        self._error = shown.strip()

    def note_line(self, line: str) -> None:
        self._lines.append(line)


class LogRelay:
    """Turns each line of a child into a record of the launcher's log; stateless but for its
    observer.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._logger = logging.getLogger("text_generation_launcher.children")

    def line(self, origin: Origin, text: str, *, is_stderr: bool, last_words: LastWords) -> None:
        """Log one line that `origin` wrote and note it for its obituary."""
        if not text.strip():
            return
        record = decode(text)
        if record is None:
            if is_stderr:
                last_words.note_line(text)
            self._write_plain(origin, text, is_stderr=is_stderr)
            return
        last_words.note_record(record)
        if self._observer is not None and self._observer(origin, record):
            return
        self._write_record(origin, record)

    def _write_plain(self, origin: Origin, text: str, *, is_stderr: bool) -> None:
        """No level of its own, hence past the level filter: a traceback is never held back."""
        level = logging.WARNING if is_stderr else logging.INFO
        self._logger.handle(
            logging.makeLogRecord(
                {
                    "name": origin.program,
                    "levelno": level,
                    "levelname": logging.getLevelName(level),
                    "msg": text,
                    "fields": _rank_field(origin),
                }
            )
        )

    def _write_record(self, origin: Origin, record: Record) -> None:
        level = _level(record)
        if not self._logger.isEnabledFor(level):
            return
        fields = {key: value for key, value in record.items() if key not in _HEAD}
        attributes: dict[str, Any] = {
            "name": str(record["target"]),
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": str(record["message"]),
            "fields": {**_rank_field(origin), **fields},
        }
        if (created := _created(record)) is not None:
            attributes["created"] = created
        self._logger.handle(logging.makeLogRecord(attributes))


def _level(record: Record) -> int:
    return _LEVELS.get(str(record["level"]).upper(), logging.INFO)


def _rank_field(origin: Origin) -> dict[str, Any]:
    return {} if origin.rank is None else {"rank": origin.rank}


def _created(record: Record) -> float | None:
    """Seconds since the epoch, or None where the child's timestamp cannot be read."""
    try:
        return datetime.fromisoformat(str(record["timestamp"])).timestamp()
    except (KeyError, ValueError):
        return None
