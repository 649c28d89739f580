"""Bytes that are no HTTP request: the client's fault, told in one quiet line.

aiohttp answers them with 400 before any handler runs, and logs each as an error with a traceback.
Anybody who reaches the port could fill the log with that.
"""

import logging

from aiohttp.http_exceptions import HttpProcessingError


class MalformedRequestFilter(logging.Filter):
    """Turns the record of a malformed request into one line at DEBUG; leaves all others alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.msg = f"{record.msg}: {' '.join(str(error.message).split())[:200]}"
        record.exc_info = None
        return True
