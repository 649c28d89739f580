"""The user's wish to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# `timeout` and some container inits signal the process and its group: one wish, two signals.
_ECHO_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """The first signal asks to stop in order, the second to stop at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self.requested = asyncio.Event()
        self.forced = asyncio.Event()
        self._clock = clock
        self._requested_at = 0.0

    @contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Receive SIGTERM, SIGINT and, unless it is ignored (nohup), SIGHUP.

        A shell ignores SIGINT for what it starts in the background; `kill -INT` must work there.
        """
        loop = asyncio.get_running_loop()
        heard = list(_STOP_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            heard.remove(signal.SIGHUP)
        for number in heard:
            loop.add_signal_handler(number, self.receive, number)
        try:
            yield self
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def receive(self, number: signal.Signals) -> None:
        if not self.requested.is_set():
            self.ask(number.name)
        elif self._clock() - self._requested_at >= _ECHO_SECONDS:
            logger.warning("%s again: stopping at once", number.name)
            self.forced.set()

    def ask(self, cause: str) -> None:
        """Ask to stop in order, for a cause that the log names; nothing new if somebody has."""
        if not self.requested.is_set():
            logger.info("%s: stopping", cause)
            self._requested_at = self._clock()
            self.requested.set()
