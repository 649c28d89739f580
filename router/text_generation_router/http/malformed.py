"""What only clients can be blamed for, told in one quiet line: bytes that are no HTTP request, a
body that is not of its Content-Encoding, a connection that is gone before it is answered.

aiohttp logs each as an error with a traceback. Anybody who reaches the port could fill the log with
that.
"""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_CLIENTS_FAULTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)


class MalformedRequestFilter(logging.Filter):
    """Turns the record of a client's fault into one line at DEBUG; leaves all others alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, _CLIENTS_FAULTS):
            return True
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        reason = error.message if isinstance(error, HttpProcessingError) else str(error)
        record.msg = f"{record.getMessage()}: {' '.join(reason.split())[:200]}"
        record.args = None
        record.exc_info = None
        return True
