"""New requests take turns with running streams.

Reading a request (template, short tokenizations, checks) is a fraction of a millisecond on the
event loop. A burst of them would hold up everybody's next token, so only a few pass in one round of
the loop; between rounds the results of steps go out.
"""

import asyncio
from collections import deque

# About one millisecond of work.
REQUESTS_PER_ROUND = 4


class PreparationGate:
    """First come, first served. Owner of the queue of those that wait."""

    def __init__(self, requests_per_round: int = REQUESTS_PER_ROUND) -> None:
        self._requests_per_round = requests_per_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Requests that may still pass in this round.
        self._num_free = requests_per_round
        self._is_round_over_scheduled = False

    async def turn(self) -> None:
        """Return when this request may be prepared, mostly at once."""
        self._schedule_end_of_round()
        if self._num_free and not self._waiting:
            self._num_free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _schedule_end_of_round(self) -> None:
        if not self._is_round_over_scheduled:
            self._is_round_over_scheduled = True
            asyncio.get_running_loop().call_soon(self._end_round)

    def _end_round(self) -> None:
        """A new round begins; those who waited longest go first."""
        self._is_round_over_scheduled = False
        self._num_free = self._requests_per_round
        while self._num_free and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._num_free -= 1
                turn.set_result(None)
        if self._num_free < self._requests_per_round:
            self._schedule_end_of_round()
