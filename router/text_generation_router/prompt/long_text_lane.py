"""The lane of long texts: they are encoded one at a time, so that the other threads are there for
everybody else's.

Who waits comes in the order of arrival and length together: a book that came a moment before does
not hold up a chapter, nor do chapters hold up a book for ever.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# A text comes before those that are longer by so many characters for each second it came later.
_CHARACTERS_PER_SECOND = 250_000


class LongTextLane:
    """Lets one text in at a time. All calls come from one event loop."""

    def __init__(self) -> None:
        self._is_taken = False
        self._order = itertools.count()
        # By when each would like to begin; of equal ones who came first.
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, num_characters: int) -> AsyncIterator[None]:
        """Wait until no other text is encoded."""
        if self._is_taken:
            await self._wait(num_characters)
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, num_characters: int) -> None:
        loop = asyncio.get_running_loop()
        wish = loop.time() + num_characters / _CHARACTERS_PER_SECOND
        turn = loop.create_future()
        heapq.heappush(self._waiting, (wish, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """The lane stays taken for the next one, who has yet to run."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False
