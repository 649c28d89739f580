"""The life of a step: planned, sent, computed elsewhere, applied, delivered.

Two steps are under way whenever there is that much to do, so that the shards never wait for Python.
A step's result changes the sequences first (ints only), the next step is planned and sent, and only
then does text leave.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from text_generation_router.engine.delivery import Generations
from text_generation_router.engine.health import HealthMonitor
from text_generation_router.engine.observer import EngineObserver, StepStats
from text_generation_router.engine.request import GenerationRequest
from text_generation_router.engine.shard_client import ShardGroup
from text_generation_router.engine.wire import StepReply, step_outcome, step_request
from text_generation_router.scheduler.scheduler import MAX_STEPS_IN_FLIGHT, Scheduler
from text_generation_router.scheduler.step_plan import StepPlan


class StepLoop:
    """Plans steps, sends them, hands their tokens to who waits; owns what is known of the steps
    under way. One task at a time runs it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        shards: ShardGroup,
        generations: Generations,
        *,
        wake: asyncio.Event,
        health: HealthMonitor,
        observer: EngineObserver,
        clock: Callable[[], float],
    ) -> None:
        """wake: set when a result has come, or something new may be planned."""
        self.scheduler = scheduler
        self._shards = shards
        self._generations = generations
        self._wake = wake
        self._health = health
        self._observer = observer
        self._clock = clock
        # Of the steps under way: when each was sent, and how long its planning took.
        self._sent: deque[tuple[float, float]] = deque()
        self._last_result_at = -math.inf

    async def run(self) -> None:
        """One step after the other, until something raises."""
        while True:
            self._send_steps()
            reply = await self._receive()
            if reply is None:
                continue
            outcome = step_outcome(reply)
            applied = self.scheduler.apply(outcome, self._clock())
            try:
                self._send_steps()
                await asyncio.sleep(0)  # the step is on its way before text leaves
            finally:
                # Also if the shards are lost just now: an applied token is never sampled again.
                now = self._clock()
                token_ids = outcome.token_ids
                num_tokens = self._generations.deliver(applied, token_ids, reply.result, now)
                self._report(applied.plan, reply, num_tokens, now)

    def forget(self) -> None:
        """The streams are closed: no result comes of what is under way."""
        self._sent.clear()
        self._health.streams_closed()

    def _send_steps(self) -> None:
        """Plan and send until two steps are under way or there is nothing to compute."""
        while (plan := self.scheduler.plan(started := self._clock())) is not None:
            request = step_request(plan, self._request_of)
            sent_at = self._clock()
            self._sent.append((sent_at, sent_at - started))
            self._health.step_sent()
            self._shards.send(request)

    def _request_of(self, sequence_id: int) -> GenerationRequest:
        return self._generations[sequence_id].request

    async def _receive(self) -> StepReply | None:
        """The next result; None when something new may be planned before it comes. Answers are
        awaited while nothing is under way, too: a shard that dies idle is noticed.
        """
        while (reply := self._shards.take_reply()) is None:
            await self._wake.wait()
            self._wake.clear()
            has_room = self.scheduler.num_steps_in_flight < MAX_STEPS_IN_FLIGHT
            if has_room:
                return self._shards.take_reply()
        return reply

    def _report(self, plan: StepPlan, reply: StepReply, num_tokens: int, now: float) -> None:
        sent_at, plan_duration = self._sent.popleft()
        duration = now - max(sent_at, self._last_result_at)
        self._last_result_at = now
        self._health.step_finished(has_more=bool(self._sent))
        self._observer.step_finished(
            StepStats(
                step=plan.step,
                num_decodes=plan.num_decodes,
                num_prefill_tokens=plan.num_prefill_tokens,
                num_admitted=len(plan.admissions),
                num_retired=len(plan.retired_slots),
                num_tokens=num_tokens,
                plan_duration=plan_duration,
                duration=duration,
                shard_duration=reply.total_us / 1e6,
                forward_duration=reply.forward_us / 1e6,
                num_graphs=reply.result.num_graphs,
                is_replayed=reply.result.is_replayed,
                is_failed=reply.result.HasField("error"),
            )
        )
