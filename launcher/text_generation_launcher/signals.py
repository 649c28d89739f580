"""The user's wish to stop."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """The first signal asks to stop in order, the second to stop at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.forced = asyncio.Event()

    @contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Receive SIGTERM, SIGINT and SIGHUP; a signal that is ignored (nohup) stays so."""
        loop = asyncio.get_running_loop()
        heard = [s for s in _STOP_SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
        for number in heard:
            loop.add_signal_handler(number, self.receive, number)
        try:
            yield self
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def receive(self, number: signal.Signals) -> None:
        if self.requested.is_set():
            logger.warning("%s again: stopping at once", number.name)
            self.forced.set()
        else:
            logger.info("%s: stopping", number.name)
            self.requested.set()
