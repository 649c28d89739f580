"""Shards that die or hang and come back: streams go on with the same tokens, within a budget."""

import asyncio
import time
from dataclasses import replace

import pytest
from text_generation_router.engine.observer import NullObserver
from text_generation_router.engine.request import GenerationError
from text_generation_router.engine.restart_budget import WINDOW_SECONDS, RestartBudget

from tests.fakes.shard_model import FakeFailure, FakeShardConfig
from tests.router.engine.factories import (
    LOST,
    RecordingSink,
    generate,
    make_request,
    running_engine,
)
from tests.router.scheduler.factories import expected_output


class Restarts(NullObserver):
    def __init__(self):
        self.count = 0

    def shards_restarted(self):
        self.count += 1


async def bring_back(shards, **changes):
    """What the launcher does: end what is left, start the group anew."""
    for rank in shards.ranks:
        await rank.stop()
    for rank in shards.ranks:
        healthy = {"break_at_step": None, "hang_at_step": None, "garble_at_step": None}
        rank.config = replace(rank.config, **({"failures": {}} | healthy | changes))
        await rank.start()


class SkippingClock:
    """A clock that a test may put forward."""

    def __init__(self):
        self.skipped = 0.0

    def __call__(self):
        return time.monotonic() + self.skipped


async def lost(engine):
    async with asyncio.timeout(20):
        while not engine._is_recovering:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def hung(shards, engine, clock):
    """Let no more time pass than a test has: until the hanging step is too old."""
    async with asyncio.timeout(20):
        for rank in shards.ranks:
            await rank.hangs.wait()
        while not engine._is_recovering:
            clock.skipped += engine._config.step_timeout + 1  # an answer may have been on its way
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("how", ["broken", "fatal", "garbled", "hung"])
async def test_streams_go_on_as_if_nothing_had_happened(step, world_size, how):
    if how == "broken":
        shard = FakeShardConfig(break_at_step=step)
    elif how == "hung":
        shard = FakeShardConfig(hang_at_step=step)
    elif how == "garbled":
        shard = FakeShardConfig(garble_at_step=step)
    else:
        shard = FakeShardConfig(failures={step: FakeFailure(is_recoverable=False)})
    observer = Restarts()
    changes = {"max_restarts": 1, "max_batch_size": 3, "max_batch_prefill_tokens": 20}
    clock = SkippingClock()
    async with running_engine(
        shard=shard, world_size=world_size, observer=observer, clock=clock, **changes
    ) as (engine, shards):
        sinks = [
            generate(engine, prompt=[n] * 30, max_new_tokens=12, prompt_logprobs=n == 1)
            for n in range(5)
        ]
        await (hung(shards, engine, clock) if how == "hung" else lost(engine))
        assert not await engine.health()
        late = generate(engine, prompt=[9] * 6, max_new_tokens=5)
        await bring_back(shards)
        for n, sink in enumerate(sinks):
            finished = await sink.over()
            assert sink.token_ids == expected_output([n] * 30, 12)
            assert finished.generated_text == sink.text
        assert sinks[1].finished.prompt_logprobs == [-float(n) for n in range(1, 30)]
        await late.over()
        assert late.token_ids == expected_output([9] * 6, 5)
        assert observer.count == 1
        assert await engine.health()


async def test_what_was_cancelled_meanwhile_stays_away():
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        shards,
    ):
        gone = RecordingSink()
        handle = engine.submit(make_request(max_new_tokens=50), gone)
        sink = generate(engine, prompt=[3] * 6, max_new_tokens=50)
        await lost(engine)
        handle.cancel()
        count = len(gone.outputs)
        await bring_back(shards)
        await sink.over()
        assert sink.token_ids == expected_output([3] * 6, 50)
        assert len(gone.outputs) == count and not gone.is_over


async def test_a_smaller_cache_fails_by_name_who_no_longer_fits():
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        shards,
    ):
        long = generate(engine, prompt=[1] * 6, max_new_tokens=900)
        short = generate(engine, prompt=[2] * 6, max_new_tokens=50)
        await lost(engine)
        await bring_back(shards, num_blocks=10)
        with pytest.raises(GenerationError, match="may grow to 906 tokens"):
            await long.over()
        await short.over()
        assert short.token_ids == expected_output([2] * 6, 50)


async def test_restarted_shards_that_refuse_to_serve_are_not_waited_for():
    """They live, so nobody would start them again: clients waited for the whole restart timeout,
    and did not hear the reason.
    """
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        shards,
    ):
        sink = generate(engine, max_new_tokens=100)
        await lost(engine)
        await bring_back(shards, warmup_refusal="no room for the cache")
        with pytest.raises(GenerationError, match=LOST):
            await sink.over()
        assert engine.failed.is_set()
        assert "no room for the cache" in str(engine.failure)


async def test_a_spent_budget_ends_every_stream_once():
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        shards,
    ):
        sinks = [generate(engine, prompt=[n] * 6, max_new_tokens=100) for n in range(3)]
        await lost(engine)
        await bring_back(shards, break_at_step=4)
        for sink in sinks:
            with pytest.raises(GenerationError, match=LOST):
                await sink.over()
        await asyncio.wait_for(engine.failed.wait(), 5)
        assert "the shard at /tmp/" in str(engine.failure)


async def test_shards_that_do_not_come_back_end_every_stream_once():
    async with running_engine(
        shard=FakeShardConfig(break_at_step=4), max_restarts=1, restart_timeout=0.2
    ) as (engine, _):
        sink = generate(engine, max_new_tokens=100)
        # The old shard still answers at its socket: it is not taken for a new one.
        with pytest.raises(GenerationError, match=LOST):
            await sink.over()
        assert engine.failed.is_set()
        assert "did not come back within 0.2 s" in str(engine.failure)


async def test_shards_lost_while_draining_are_not_waited_for():
    """Who stops the server starts no shard again: clients waited for the whole grace time."""
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        _,
    ):
        sink = generate(engine, max_new_tokens=100)
        draining = asyncio.create_task(engine.drain(60))
        with pytest.raises(GenerationError, match=LOST):
            await sink.over()
        assert await asyncio.wait_for(draining, 5)


async def test_stopping_while_shards_are_away():
    async with running_engine(shard=FakeShardConfig(break_at_step=4), max_restarts=1) as (
        engine,
        _,
    ):
        sink = generate(engine, max_new_tokens=100)
        await lost(engine)
        await engine.stop()
        assert sink.error is not None


def test_the_budget_is_of_ten_minutes():
    budget = RestartBudget(2)
    assert budget.take(0.0) and budget.take(1.0)
    assert not budget.take(2.0)
    assert budget.take(WINDOW_SECONDS)
    assert not budget.take(WINDOW_SECONDS + 0.5)
