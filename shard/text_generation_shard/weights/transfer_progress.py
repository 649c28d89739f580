"""Progress of a long transfer, as log records that the launcher draws."""

import logging
import threading
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0


class TransferProgress:
    """Counts the bytes of several files and reports the sum about once a second.

    Records have the fields `progress` (the name of what advances), `bytes_done` and `bytes_total`.
    Safe to use from several threads.
    """

    def __init__(self, name: str, sizes: Mapping[str, int]) -> None:
        self._name = name
        self._sizes = sizes
        self._done = dict.fromkeys(sizes, 0)
        self._last_report = time.monotonic()
        self._reported = 0
        self._lock = threading.Lock()

    def advance(self, file: str, num_bytes: int) -> None:
        """More bytes of a file have arrived."""
        self._set(file, self._done[file] + num_bytes)

    def restart(self, file: str, num_bytes: int = 0) -> None:
        """A file begins, or begins again, after its first `num_bytes`."""
        self._set(file, num_bytes)

    def finish(self, file: str) -> None:
        """A file is whole."""
        self._set(file, self._sizes[file])

    def _set(self, file: str, num_bytes: int) -> None:
        with self._lock:
            self._done[file] = min(num_bytes, self._sizes[file])
            done, total = sum(self._done.values()), sum(self._sizes.values())
            now = time.monotonic()
            is_due = now - self._last_report >= _INTERVAL_SECONDS or done == total
            if not is_due or done == self._reported:
                return
            self._last_report, self._reported = now, done
        fields = {"progress": self._name, "bytes_done": done, "bytes_total": total}
        logger.info(self._name, extra={"fields": fields})
