"""Whether the shards still compute: green only if a step finished recently or a probe does now."""

import asyncio
from collections.abc import Callable

from text_generation_router.engine.request import (
    EngineError,
    Finished,
    GenerationHandle,
    OutputSink,
    TokenOutput,
)
from text_generation_router.engine.shard_client import ShardGroup, ShardUnavailableError

# A step that finished so many seconds ago shows that the shards live.
_RECENT_SECONDS = 10.0
_PROBE_TIMEOUT = 10.0


class _ProbeSink:
    """Waits for one token."""

    def __init__(self) -> None:
        self.result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def token(self, output: TokenOutput, finished: Finished | None) -> None:  # noqa: ARG002
        self._settle(True)

    def failed(self, error: EngineError) -> None:  # noqa: ARG002
        self._settle(False)

    def _settle(self, is_healthy: bool) -> None:
        if not self.result.done():
            self.result.set_result(is_healthy)


class HealthMonitor:
    """Told of steps by the loop; asked by the health endpoint."""

    def __init__(
        self,
        shards: ShardGroup,
        submit_probe: Callable[[OutputSink], GenerationHandle],
        step_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._shards = shards
        self._submit_probe = submit_probe
        self._step_timeout = step_timeout
        self._clock = clock
        self._last_finished_at: float | None = None
        # When the oldest step under way was sent or got its turn.
        self._in_flight_since: float | None = None
        self._probing: asyncio.Task[bool] | None = None

    def step_sent(self) -> None:
        if self._in_flight_since is None:
            self._in_flight_since = self._clock()

    def step_finished(self, *, has_more: bool) -> None:
        """A result arrived; `has_more` says whether another step is under way."""
        self._last_finished_at = self._clock()
        self._in_flight_since = self._last_finished_at if has_more else None

    def is_stalled(self) -> bool:
        """Whether a step is under way for longer than the timeout."""
        since = self._in_flight_since
        return since is not None and self._clock() - since > self._step_timeout

    def streams_closed(self) -> None:
        """Nothing is under way, and nothing shows that the next shards live."""
        self._in_flight_since = self._last_finished_at = None

    async def check(self) -> bool:
        """Answers at once while steps flow; a hung step turns it false after the timeout."""
        now = self._clock()
        if self.is_stalled():
            return False
        since = self._in_flight_since
        if since is not None and since + _RECENT_SECONDS < now:
            return await self._shards_answer()
        if self._last_finished_at is not None and now - self._last_finished_at < _RECENT_SECONDS:
            return True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        return await asyncio.shield(self._probing)

    async def _shards_answer(self) -> bool:
        """In the middle of a long step: whether all shards answer, from another thread."""
        try:
            await self._shards.require_answers()
        except ShardUnavailableError:
            return False
        return True

    async def _probe(self) -> bool:
        """Generate one token."""
        sink = _ProbeSink()
        handle = self._submit_probe(sink)
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                return await sink.result
        except TimeoutError:
            handle.cancel()
            return False
