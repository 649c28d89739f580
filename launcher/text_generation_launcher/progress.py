"""What is being downloaded or loaded, as bars on a terminal.

A child reports with records that have the fields `bytes_done` and `bytes_total`, and `progress`,
the name of what advances. Without a terminal those records are log lines like any other.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from text_generation_launcher.log_relay import Origin, Record

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressDisplay:
    """Owns the bars, and the log's stream while they are shown. Nothing is drawn (and rich is not
    loaded) before the first record that reports bytes.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._progress: Progress | None = None
        self._tasks: dict[tuple[Origin, str], TaskID] = {}
        self._restore: list[Callable[[], Any]] = []

    def observe(self, origin: Origin, record: Record) -> bool:
        """Draw what the record reports; False if it is not drawn."""
        done, total = record.get("bytes_done"), record.get("bytes_total")
        if not self._enabled or not isinstance(done, int) or not isinstance(total, int):
            return False
        key = (origin, str(record.get("progress", record["message"])))
        if key not in self._tasks and done >= total:
            return False  # over before there was anything to draw
        progress = self._started()
        if key not in self._tasks:
            self._tasks[key] = progress.add_task(f"{origin}: {key[1]}", total=total)
        progress.update(self._tasks[key], completed=done, total=total)
        return True

    def close(self) -> None:
        """Take the bars away; the log writes to its own stream again. Safe to call twice."""
        self._enabled = False
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        while self._restore:
            self._restore.pop()()

    def _started(self) -> "Progress":
        if self._progress is None:
            own = sys.stdout
            self._progress = _make_progress()
            self._progress.start()
            self._write_log_above(own)
        return self._progress

    def _write_log_above(self, own: TextIO) -> None:
        """While it draws, rich puts a stream in sys.stdout's place that keeps the bars below."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is own:
                handler.setStream(sys.stdout)
                self._restore.append(partial(handler.setStream, own))


def _make_progress() -> "Progress":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        transient=True,
    )
