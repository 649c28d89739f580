"""How far the weights have been read, as log records that the launcher draws, and how fast."""

import logging
import time

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5


class LoadingProgress:
    """Counts bytes of the files whose tensors this rank has read, wholly or in part."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._loaded_bytes = 0
        # Less, where a rank reads its part of a tensor; more, where tensors are read twice.
        self._read_bytes = 0
        self._started = self._last_report = time.monotonic()

    def count(self, num_bytes: int) -> None:
        """So many bytes are read from the files."""
        self._read_bytes += num_bytes

    def advance(self, num_bytes: int) -> None:
        """A tensor of so many bytes needs no more waiting for."""
        self._loaded_bytes += num_bytes
        if time.monotonic() - self._last_report >= _INTERVAL_S:
            self._report("Loading weights", self._loaded_bytes)

    def finish(self) -> None:
        """All weights are there."""
        seconds = time.monotonic() - self._started
        self._report(
            "Loaded weights",
            self._total_bytes,
            bytes_read=self._read_bytes,
            seconds=round(seconds, 3),
            gb_per_s=round(self._read_bytes / seconds / 1e9, 2),
        )

    def _report(self, message: str, bytes_done: int, **speed: float) -> None:
        self._last_report = time.monotonic()
        fields = {
            "progress": "weights",
            "bytes_done": bytes_done,
            "bytes_total": self._total_bytes,
            **speed,
        }
        logger.info(message, extra={"fields": fields})
