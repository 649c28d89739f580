"""The engine: takes requests, and keeps one task that computes them step by step (`step_loop`).

When the shards are lost (a stream broke, a step hangs) and the restart budget allows it, the loop
closes the streams, says so in a record that the launcher acts on (`lost_shards`), waits for
other shards at the same sockets, and lets the scheduler begin anew: a client sees a pause. While
the server drains, it gives up at once: who stops it starts no shard again.

Order of effects of an ending: the generation leaves the table (`delivery`), its sink hears of it
(unless it was cancelled), the scheduler gives back slot and blocks.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from text_generation_proto import shard_pb2

from text_generation_router.engine.delivery import Generations
from text_generation_router.engine.generation import Generation
from text_generation_router.engine.health import HealthMonitor
from text_generation_router.engine.info import (
    EngineConfig,
    EngineInfo,
    EngineStartError,
    engine_info,
    scheduler_limits,
    warmup_request,
    warmup_samples,
)
from text_generation_router.engine.observer import EngineObserver, NullObserver
from text_generation_router.engine.request import (
    EngineError,
    GenerationError,
    GenerationHandle,
    GenerationRequest,
    OutputSink,
    OverloadedError,
    SamplingParameters,
    ShuttingDownError,
)
from text_generation_router.engine.restart_budget import RestartBudget
from text_generation_router.engine.shard_client import (
    ShardError,
    ShardFailedError,
    ShardGroup,
    ShardUnavailableError,
)
from text_generation_router.engine.step_loop import StepLoop
from text_generation_router.engine.vocabulary import TextTokenizer, Vocabulary
from text_generation_router.scheduler.cost_model import CostModel
from text_generation_router.scheduler.overload import Load, OverloadPolicy
from text_generation_router.scheduler.scheduler import Scheduler, SchedulerStats
from text_generation_router.scheduler.sequence import Ending, Sequence
from text_generation_router.scheduler.step_plan import StepMismatchError

_log = logging.getLogger("text_generation_router.engine")
# How often a step under way is looked at.
_WATCH_SECONDS = 0.25
# How long one attempt to reach restarted shards may take, and the pause between two.
_ATTEMPT_SECONDS = 10.0
_RETRY_SECONDS = 0.1
# What clients hear of lost shards: the reason names sockets and what a shard's libraries said.
_LOST = "the model's shards are lost; the server's log says why"


@dataclass(frozen=True, slots=True)
class _Handle:
    """Cancels one generation."""

    engine: "Engine"
    sequence_id: int

    def cancel(self) -> None:
        self.engine.cancel(self.sequence_id)


class Engine:
    """Owns the shards' streams, the scheduler and the generations in flight.

    `start` before anything else; `stop` is safe at any time and twice. When shards are lost and no
    restart is left or they do not come back, every generation fails and `failed` is set with the
    reason in `failure`.
    """

    def __init__(
        self,
        config: EngineConfig,
        tokenizer: TextTokenizer,
        eos_token_ids: Collection[int],
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._vocabulary = Vocabulary(tokenizer)
        self._eos_token_ids = frozenset(eos_token_ids)
        self._observer: EngineObserver = NullObserver() if observer is None else observer
        self._clock = clock
        self._policy = OverloadPolicy(max_requests=config.max_concurrent_requests)
        self._wake = asyncio.Event()
        self._shards = ShardGroup(config.shard_uds_paths, self._wake.set)
        self._health = HealthMonitor(self._shards, self._submit_probe, config.step_timeout, clock)
        self._generations = Generations(self._observer, self._end_sequence)
        self._sequence_ids = itertools.count(1)
        self._idle = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._is_draining = False
        self._is_recovering = False
        self._budget = RestartBudget(config.max_restarts)
        self._info: EngineInfo | None = None
        self._steps_or_none: StepLoop | None = None
        # Set when the engine can no longer serve; the reason is in `failure`.
        self.failed = asyncio.Event()
        self.failure: Exception | None = None

    @property
    def info(self) -> EngineInfo:
        """Facts and limits; after `start`."""
        assert self._info is not None, "the engine was not started"
        return self._info

    @property
    def _steps(self) -> StepLoop:
        assert self._steps_or_none is not None, "the engine was not started"
        return self._steps_or_none

    @property
    def _scheduler(self) -> Scheduler:
        return self._steps.scheduler

    async def start(self) -> None:
        """Wait for the shards, warm them up, begin to serve. Raises `ShardError` or
        `EngineStartError`.
        """
        warmup = await self._prepare_shards(self._config.connect_timeout)
        self._steps_or_none = StepLoop(
            Scheduler(scheduler_limits(self._config, self.info), CostModel(warmup_samples(warmup))),
            self._shards,
            self._generations,
            wake=self._wake,
            health=self._health,
            observer=self._observer,
            clock=self._clock,
        )
        self._shards.open()
        self._serving = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """End the loop and the streams; what still runs fails."""
        self._is_draining = True
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        self._generations.fail_all(ShuttingDownError("the server was stopped"))
        await self._shards.close()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Take no new work and wait for what runs; what is left after `timeout` seconds fails.
        Returns whether everything ended by itself.
        """
        self._is_draining = True
        try:
            async with asyncio.timeout(timeout):
                while len(self._generations):
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._generations.fail_all(
                ShuttingDownError(f"the server stops and did not finish this within {timeout:g} s")
            )
            return False
        return True

    def submit(self, request: GenerationRequest, sink: OutputSink) -> GenerationHandle:
        """Take a request. Raises `OverloadedError` or `ShuttingDownError`."""
        refusal = self._refusal()
        if refusal is not None:
            self._observer.sequence_refused(refusal)
            raise refusal
        return self._submit(request, sink)

    def cancel(self, sequence_id: int) -> None:
        """What a handle calls."""
        self._generations.cancel(sequence_id)

    async def health(self) -> bool:
        """Whether requests can be served now: a step has finished recently, or one does now."""
        if self.failure is not None or self._serving is None or self._is_recovering:
            return False
        return await self._health.check()

    def stats(self) -> SchedulerStats:
        """A snapshot, for metrics."""
        return self._scheduler.stats()

    def _refusal(self) -> EngineError | None:
        if self.failure is not None:
            return ShuttingDownError(_LOST)
        if self._is_draining:
            return ShuttingDownError("the server is shutting down")
        load = Load(
            num_requests=len(self._generations), predicted_wait=self._scheduler.predicted_wait()
        )
        refusal = self._policy.refusal(load)
        if refusal is None:
            return None
        return OverloadedError(
            f"Model is overloaded: {refusal.reason}", retry_after=refusal.retry_after
        )

    def _submit(self, request: GenerationRequest, sink: OutputSink) -> GenerationHandle:
        start = self.info.decoder_start_token_id
        sequence = Sequence(
            sequence_id=next(self._sequence_ids),
            token_ids=list(request.prompt_ids) if start is None else [start],
            encoder_ids=() if start is None else request.prompt_ids,
            max_new_tokens=request.max_new_tokens,
            eos_token_ids=self._end_tokens(request),
            needs_prompt_logprobs=request.prompt_logprobs and start is None,
            arrived_at=self._clock(),
        )
        # First what may fail: who is in the scheduler is planned.
        generation = Generation(request, sink, sequence, self._vocabulary)
        try:
            self._scheduler.submit(sequence)
        except ValueError as error:  # restarted shards may serve less than the limits at start
            raise GenerationError(str(error)) from error
        self._generations.add(generation)
        self._wake.set()
        return _Handle(self, sequence.sequence_id)

    def _end_tokens(self, request: GenerationRequest) -> frozenset[int]:
        own = frozenset() if request.ignore_eos else self._eos_token_ids
        # Mostly the one set of all: what every token is looked up in should be in a cache.
        return own | request.stop_token_ids if request.stop_token_ids else own

    def _submit_probe(self, sink: OutputSink) -> GenerationHandle:
        """A generation of one token, for the health check; it passes the overload policy."""
        request = GenerationRequest(
            prompt_ids=(0,), max_new_tokens=1, sampling=SamplingParameters()
        )
        return self._submit(request, sink)

    def _end_sequence(self, sequence: Sequence, ending: Ending) -> None:
        self._scheduler.finish(sequence, ending, self._clock())
        self._wake.set()
        self._idle.set()

    async def _prepare_shards(self, timeout: float | None) -> shard_pb2.WarmupResponse:  # noqa: ASYNC109
        """Connect, warm up, set `info`. Raises `ShardError` or `EngineStartError`."""
        facts = await self._shards.connect(timeout)
        eos_token_ids = self._eos_token_ids
        warmup = await self._shards.warm_up(warmup_request(self._config, facts, eos_token_ids))
        self._info = engine_info(self._config, facts, warmup, eos_token_ids)
        return warmup

    async def _run(self) -> None:
        try:
            while True:
                error = await self._serve_until_lost()
                if self._is_draining or not self._budget.take(self._clock()):
                    raise error
                await self._recover(error)
        except (ShardError, StepMismatchError, EngineStartError) as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  the loop's last resort: everybody must hear of it
            _log.exception("the engine's loop broke")
            self._fail(error)

    async def _serve_until_lost(self) -> ShardFailedError | StepMismatchError:
        """Serve; returns why the shards cannot be used any longer."""
        serving = asyncio.create_task(self._steps.run())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
            (serving if serving.done() else watching).result()
            raise AssertionError("serving ended without a cause")
        except (ShardFailedError, StepMismatchError) as error:
            return error
        finally:
            for task in (serving, watching):
                task.cancel()
            await asyncio.gather(serving, watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Raise `ShardFailedError` when a step hangs, if anything can be done about it."""
        is_futile = self._budget.is_empty_by_choice
        while is_futile or not self._health.is_stalled():  # noqa: ASYNC110  time passes
            await asyncio.sleep(_WATCH_SECONDS)
        raise ShardFailedError(f"a step did not finish within {self._config.step_timeout:g} s")

    async def _recover(self, cause: Exception) -> None:
        """Wait for other shards and give them everything that has not ended. Raises `ShardError`
        or `EngineStartError` if that cannot be.
        """
        self._is_recovering = True
        _log.error(
            "the shards are lost, waiting for their restart: %s",
            cause,
            extra={"fields": {"lost_shards": self._shards.known_sockets}},
        )
        lost_at = self._clock()
        self._steps.forget()
        await self._shards.close()
        try:
            async with asyncio.timeout(self._config.restart_timeout):
                await self._prepare_restarted_shards()
        except TimeoutError:
            raise ShardUnavailableError(
                f"the shards did not come back within {self._config.restart_timeout:g} s; "
                f"they were lost because {cause}"
            ) from cause
        for failed in self._scheduler.restart(scheduler_limits(self._config, self.info)):
            self._generations.fail(failed.sequence.sequence_id, GenerationError(failed.message))
        self._shards.open()
        self._is_recovering = False
        self._observer.shards_restarted()
        _log.warning(
            "the shards are back after %.1f s, %d requests go on",
            self._clock() - lost_at,
            len(self._generations),
        )

    async def _prepare_restarted_shards(self) -> None:
        """Try until they answer: they may fail and be started again meanwhile."""
        while True:
            try:
                await self._prepare_shards(_ATTEMPT_SECONDS)
                return
            except ShardUnavailableError as error:
                _log.debug("the shards are not back yet: %s", error)
                await self._shards.close()
                await asyncio.sleep(_RETRY_SECONDS)

    def _fail(self, error: Exception) -> None:
        """The shards are lost for good: every generation ends."""
        _log.error("the engine failed: %s", error)
        self.failure = error
        self._generations.fail_all(GenerationError(_LOST))
        self.failed.set()
