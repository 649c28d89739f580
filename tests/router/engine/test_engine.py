"""The engine end to end: real messages over a real socket to a strict fake shard."""

import asyncio
import os
import time

import pytest
from text_generation_process.socket_file import SocketFile
from text_generation_router.engine.info import EngineConfig, EngineStartError
from text_generation_router.engine.loop import Engine
from text_generation_router.engine.observer import NullObserver
from text_generation_router.engine.request import (
    FinishReason,
    GenerationError,
    OverloadedError,
    ShuttingDownError,
)
from text_generation_router.engine.shard_client import ShardUnavailableError

from tests.fakes.shard import FakeShard, FakeShards
from tests.fakes.shard_model import FakeFailure, FakeShardConfig
from tests.router.engine.factories import (
    EOS,
    LOST,
    RecordingSink,
    generate,
    make_request,
    running_engine,
    word_tokenizer,
)
from tests.router.scheduler.factories import expected_output


async def test_tokens_stream_in_order_and_the_last_carries_the_end():
    async with running_engine() as (engine, _):
        sink = generate(engine, prompt=7, max_new_tokens=20)
        finished = await sink.over()
        assert sink.token_ids == expected_output(range(7), 20)
        assert sink.text == "".join(f"t{i}" for i in sink.token_ids) == finished.generated_text
        assert finished.reason is FinishReason.LENGTH
        assert (finished.num_prompt_tokens, finished.num_generated_tokens) == (7, 20)
        assert finished.prompt_logprobs is None
        assert 0 <= finished.queue_time <= finished.time_to_first_token
        assert finished.inference_time >= 0
        assert sink.outputs[0].logprob == -0.5


async def test_many_streams_at_once_and_one_after_another():
    async with running_engine(max_total_tokens=128) as (engine, _):
        for _ in range(2):
            sinks = [generate(engine, prompt=[n] * (n + 1), max_new_tokens=9) for n in range(8)]
            for n, sink in enumerate(sinks):
                await sink.over()
                assert sink.token_ids == expected_output([n] * (n + 1), 9)
        assert engine.stats().num_used_blocks == 0


async def test_an_end_token_ends_it_and_stays_out_of_the_text():
    shard = FakeShardConfig(eos_token_id=EOS, eos_after=3)
    async with running_engine(shard=shard) as (engine, _):
        sink = generate(engine, max_new_tokens=50)
        finished = await sink.over()
        assert finished.reason is FinishReason.EOS_TOKEN
        assert sink.outputs[-1].special and sink.outputs[-1].text == "</s>"
        assert finished.generated_text == "".join(output.text for output in sink.outputs[:-1])
        ignoring = generate(engine, max_new_tokens=5, ignore_eos=True)
        assert (await ignoring.over()).num_generated_tokens == 5


async def test_a_requests_own_end_tokens_end_it_too():
    third = expected_output([5, 6], 3)[-1]
    async with running_engine() as (engine, _):
        options = {"prompt": [5, 6], "max_new_tokens": 50, "stop_token_ids": frozenset({third})}
        for ignore_eos in (False, True):
            sink = generate(engine, ignore_eos=ignore_eos, **options)
            finished = await sink.over()
            assert finished.reason is FinishReason.EOS_TOKEN
            assert sink.token_ids == expected_output([5, 6], 3)


async def test_length_goes_before_the_end_token():
    shard = FakeShardConfig(eos_token_id=EOS, eos_after=3)
    async with running_engine(shard=shard) as (engine, _):
        finished = await generate(engine, max_new_tokens=3).over()
        assert finished.reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("keep", "texts", "generated"),
    [
        (True, ["Hello", " wor", "ld. B"], "Hello world. B"),
        (False, ["Hello", " wor", "ld"], "Hello world"),
    ],
)
async def test_a_stop_string_inside_and_across_tokens(keep, texts, generated):
    tokenizer = word_tokenizer("Hello", " wor", "ld. Bye")
    shard = FakeShardConfig(script=(2, 3, 4))
    async with running_engine(tokenizer=tokenizer, shard=shard) as (engine, _):
        sink = generate(engine, max_new_tokens=50, stop_sequences=(". B",), keep_stop_sequence=keep)
        finished = await sink.over()
        assert [output.text for output in sink.outputs] == texts
        assert [output.own_text for output in sink.outputs] == ["Hello", " wor", "ld. Bye"]
        assert finished.generated_text == generated
        assert finished.reason is FinishReason.STOP_SEQUENCE
        assert finished.stop_sequence == ". B"
        await until_idle(engine)


async def test_text_held_back_comes_with_the_end():
    tokenizer = word_tokenizer("abc.", "x")
    shard = FakeShardConfig(script=(2,), eos_token_id=EOS, eos_after=2)
    async with running_engine(tokenizer=tokenizer, shard=shard) as (engine, _):
        sink = generate(engine, max_new_tokens=9, stop_sequences=(".!",), keep_stop_sequence=False)
        finished = await sink.over()
        assert [output.text for output in sink.outputs] == ["abc", ".</s>"]
        assert finished.generated_text == "abc."


async def test_top_tokens_and_prompt_logprobs():
    async with running_engine() as (engine, _):
        await generate(engine, prompt=40, max_new_tokens=1).over()
        sink = generate(engine, prompt=40, max_new_tokens=3, top_n_tokens=2, prompt_logprobs=True)
        plain = generate(engine, prompt=40, max_new_tokens=3)
        finished = await sink.over()
        await plain.over()
        assert finished.num_cached_tokens == 0
        assert finished.prompt_logprobs == [-float(position) for position in range(1, 40)]
        candidates = [(top.token_id, top.logprob) for top in finished.prompt_top_tokens[-1]]
        assert candidates == [(39, -39.0), (40, -40.0)]
        assert finished.prompt_top_tokens[-1][0].text == "t39"
        assert [len(found) for found in finished.prompt_top_tokens] == [2] * 39
        for output in sink.outputs:
            assert [top.token_id for top in output.top_tokens] == [
                output.token_id,
                (output.token_id + 1) % 1000,
            ]
            assert output.top_tokens[0].text == f"t{output.token_id}"
        assert [output.top_tokens for output in plain.outputs] == [[], [], []]
        assert plain.finished.num_cached_tokens == 32


async def test_cancelled_means_silence_and_blocks_given_back():
    shard = FakeShardConfig(step_seconds=0.001)
    async with running_engine(shard=shard) as (engine, _):
        sink = RecordingSink()
        handle = engine.submit(make_request(max_new_tokens=1000), sink)
        other = generate(engine, prompt=[9] * 5, max_new_tokens=30)
        await sink.received(5)
        handle.cancel()
        num_tokens = len(sink.outputs)
        assert engine.stats().num_running <= 1, "gone at once"
        await other.over()
        handle.cancel()
        assert len(sink.outputs) == num_tokens and not sink.is_over
        assert other.token_ids == expected_output([9] * 5, 30)


async def test_a_sink_may_cancel_from_within_its_call():
    class Impatient(RecordingSink):
        def token(self, output, finished):
            super().token(output, finished)
            self.handle.cancel()

    async with running_engine() as (engine, _):
        sinks = [Impatient(), Impatient()]
        for sink, length in zip(sinks, (1, 10), strict=True):
            sink.handle = engine.submit(make_request(max_new_tokens=length), sink)
            await sink.received(1)
        await until_idle(engine)
        assert [len(sink.outputs) for sink in sinks] == [1, 1]


async def test_a_sink_that_raises_hears_an_end_and_harms_nobody_else(caplog):
    """Whoever waited behind it waited for ever."""

    class Broken(RecordingSink):
        def token(self, output, finished):
            raise RuntimeError("cannot write")

    async with running_engine() as (engine, _):
        broken = Broken()
        engine.submit(make_request(), broken)
        sink = generate(engine, max_new_tokens=9)
        await sink.over()
        assert str(broken.error) == "a token could not be delivered"
        assert sink.token_ids == expected_output(range(5), 9)
        assert "cannot write" in caplog.text
        assert await engine.health()


async def test_overload_is_refused_at_once():
    shard = FakeShardConfig(step_seconds=0.002)
    async with running_engine(shard=shard, max_concurrent_requests=2) as (engine, _):
        sinks = [generate(engine, max_new_tokens=20) for _ in range(2)]
        with pytest.raises(OverloadedError) as caught:
            generate(engine)
        assert caught.value.retry_after >= 1
        for sink in sinks:
            await sink.over()
        await generate(engine).over()


async def test_two_ranks_keep_step():
    async with running_engine(world_size=2) as (engine, shards):
        sinks = [generate(engine, prompt=[n] * 6, max_new_tokens=12) for n in range(3)]
        for n, sink in enumerate(sinks):
            await sink.over()
            assert sink.token_ids == expected_output([n] * 6, 12)
        assert engine.info.world_size == 2
        assert shards.ranks[1].num_steps == engine.stats().num_steps


async def test_a_recoverable_failure_ends_the_named_and_the_others_go_on():
    shard = FakeShardConfig(failures={4: FakeFailure(items=(0,), message="out of memory")})
    async with running_engine(shard=shard) as (engine, _):
        sinks = [generate(engine, prompt=[n] * 6, max_new_tokens=12) for n in range(2)]
        with pytest.raises(GenerationError, match="out of memory"):
            await sinks[0].over()
        await sinks[1].over()
        assert sinks[1].token_ids == expected_output([1] * 6, 12)
        assert not engine.failed.is_set()
        assert await engine.health()


async def test_a_sequence_that_fails_alone_hears_its_own_reason():
    failure = FakeFailure(items=(0,), is_alone=True, message="the grammar is too complex")
    async with running_engine(shard=FakeShardConfig(failures={4: failure})) as (engine, _):
        sinks = [generate(engine, prompt=[n] * 6, max_new_tokens=12) for n in range(2)]
        with pytest.raises(GenerationError, match="the grammar is too complex"):
            await sinks[0].over()
        await sinks[1].over()
        assert sinks[1].token_ids == expected_output([1] * 6, 12)
        assert engine.stats().num_preemptions == 0


@pytest.mark.parametrize(
    ("shard", "reason"),
    [
        (
            FakeShardConfig(failures={4: FakeFailure(is_recoverable=False, message="lost a rank")}),
            "lost a rank",
        ),
        (FakeShardConfig(break_at_step=4), "the shard at /tmp/"),
    ],
    ids=["fatal", "broken stream"],
)
async def test_a_lost_shard_fails_every_stream_once(shard, reason):
    async with running_engine(shard=shard, max_batch_size=2) as (engine, _):
        sinks = [generate(engine, prompt=[n] * 6, max_new_tokens=100) for n in range(4)]
        for sink in sinks:
            with pytest.raises(GenerationError, match=LOST):
                await sink.over()
        await asyncio.wait_for(engine.failed.wait(), 5)
        assert reason in str(engine.failure)
        assert not await engine.health()
        with pytest.raises(ShuttingDownError, match=LOST):
            generate(engine)


async def test_a_lost_rank_is_noticed_though_another_waits_for_it_for_ever():
    """Its last words lay there unread; clients heard of a write that failed, or of nothing."""
    async with running_engine(world_size=2) as (engine, shards):
        lost = FakeFailure(is_recoverable=False, message="out of memory")
        shards.ranks[0].config = FakeShardConfig(failures={4: lost})
        shards.ranks[1].config = FakeShardConfig(hang_at_step=4)
        sink = generate(engine, max_new_tokens=20)
        with pytest.raises(GenerationError, match=LOST):
            await sink.over()
        assert str(engine.failure) == "rank 0 failed: out of memory"


@pytest.mark.parametrize("world_size", [1, 2])
async def test_a_shard_that_dies_is_noticed_even_when_idle(world_size):
    async with running_engine(world_size=world_size) as (engine, shards):
        await generate(engine).over()
        await shards.ranks[-1].stop()
        await asyncio.wait_for(engine.failed.wait(), 10)
        assert not await engine.health()


async def test_a_hung_shard_turns_health_red():
    clock = Clock()
    async with FakeShards(FakeShardConfig(hang_at_step=3)) as shards:
        config = EngineConfig(shard_uds_paths=shards.uds_paths)
        engine = Engine(config, word_tokenizer(), {EOS}, clock=clock)
        await engine.start()
        sink = generate(engine, max_new_tokens=100)
        await sink.received(2)
        assert await engine.health()
        clock.now += 30
        assert await engine.health(), "in the middle of a long step the shard answers"
        clock.now += 40
        assert not await engine.health()
        await engine.stop()
        assert isinstance(sink.error, ShuttingDownError)


async def test_health_of_an_idle_engine_is_a_step_that_runs_now():
    async with running_engine() as (engine, shards):
        assert await asyncio.gather(*(engine.health() for _ in range(5))) == [True] * 5
        assert shards.ranks[0].num_steps == 1, "one probe for all who ask"


async def test_draining_refuses_new_work_and_finishes_what_runs():
    shard = FakeShardConfig(step_seconds=0.002)
    async with running_engine(shard=shard) as (engine, _):
        sink = generate(engine, max_new_tokens=20)
        draining = asyncio.create_task(engine.drain(10))
        await sink.received(1)
        with pytest.raises(ShuttingDownError):
            generate(engine)
        assert await draining
        assert sink.finished is not None


async def test_draining_ends_what_does_not_finish_in_time():
    shard = FakeShardConfig(hang_at_step=2)
    async with running_engine(shard=shard) as (engine, _):
        sink = generate(engine, max_new_tokens=20)
        assert not await engine.drain(0.05)
        assert isinstance(sink.error, ShuttingDownError)


async def test_stopping_twice_is_safe_and_tells_everybody():
    async with running_engine() as (engine, _):
        sink = generate(engine, max_new_tokens=1000)
        await sink.received(1)
        await engine.stop()
        await engine.stop()
        assert isinstance(sink.error, ShuttingDownError)


async def test_limits_follow_from_options_and_warmup():
    async with running_engine(max_batch_total_tokens=512, block_size=32) as (engine, _):
        info = engine.info
        assert (info.num_blocks, info.block_size, info.max_batch_total_tokens) == (17, 32, 512)
        assert (info.max_total_tokens, info.max_input_tokens) == (512, 511)
        assert info.max_step_tokens == 4096
        assert (info.model_type, info.vocab_size) == ("fake", 1000)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_total_tokens": 5000}, "--max-total-tokens"),
        ({"max_total_tokens": 600, "max_batch_total_tokens": 512}, "--max-total-tokens"),
        ({"max_total_tokens": 100, "max_input_tokens": 100}, "--max-input-tokens"),
    ],
)
async def test_impossible_limits_name_their_flag(changes, named):
    with pytest.raises(EngineStartError, match=named):
        async with running_engine(**changes):
            pass


async def test_a_missing_shard_is_named():
    config = EngineConfig(shard_uds_paths=("/tmp/no-such-shard-0",), connect_timeout=0.05)
    engine = Engine(config, word_tokenizer(), {EOS})
    with pytest.raises(ShardUnavailableError, match="/tmp/no-such-shard-0"):
        await engine.start()
    await engine.stop()


async def test_a_shard_that_is_started_anew_while_it_is_asked_is_known_by_its_new_socket(
    monkeypatch,
):
    """Otherwise the launcher would take the request to restart it for one that is done."""
    answer, answered = FakeShard.Info, []

    async def started_anew_once(self, request, context):
        before = SocketFile.at(self.uds_path)
        while not answered and SocketFile.at(self.uds_path) == before:
            os.chmod(self.uds_path, 0o600)  # noqa: PTH101  it counts as another file then
        answered.append(self)
        return await answer(self, request, context)

    monkeypatch.setattr(FakeShard, "Info", started_anew_once)
    async with running_engine() as (engine, shards):
        (path,) = shards.uds_paths
        assert engine._shards.known_sockets == [str(SocketFile.at(path))]
        await generate(engine).over()
    assert len(answered) == 2


async def test_ranks_that_do_not_fit_together_are_refused():
    async with FakeShards(world_size=2) as shards:
        engine = Engine(
            EngineConfig(shard_uds_paths=shards.uds_paths[::-1]), word_tokenizer(), {EOS}
        )
        with pytest.raises(ShardUnavailableError, match="rank 1 of 2, expected rank 0"):
            await engine.start()
        await engine.stop()


async def test_the_observer_sees_steps_and_ends():
    class Observer(NullObserver):
        def __init__(self):
            self.steps, self.ends = [], []

        def step_finished(self, stats):
            self.steps.append(stats)

        def sequence_finished(self, finished):
            self.ends.append(finished)

        def sequence_refused(self, error):
            self.ends.append(error)

        def sequence_cancelled(self):
            self.ends.append("cancelled")

    observer = Observer()
    async with running_engine(observer=observer, max_concurrent_requests=1) as (engine, _):
        finished = await generate(engine, prompt=20, max_new_tokens=3).over()
        handle = engine.submit(make_request(), RecordingSink())
        with pytest.raises(OverloadedError):
            generate(engine)
        handle.cancel()
        assert observer.ends[0] is finished
        assert isinstance(observer.ends[1], OverloadedError)
        assert observer.ends[2] == "cancelled"
        assert [step.num_prefill_tokens for step in observer.steps[:3]] == [20, 0, 0]
        assert [step.num_tokens for step in observer.steps[:3]] == [1, 1, 1]
        assert observer.steps[0].num_admitted == 1
        assert observer.steps[0].shard_duration > 0 and not observer.steps[0].is_failed


async def test_prompt_logprobs_of_a_step_that_samples_nothing():
    """A chunk in the middle of a prompt, alone in its step: what it reported was dropped."""
    async with running_engine(max_batch_size=1, max_batch_prefill_tokens=20) as (engine, _):
        finished = await generate(engine, prompt=90, max_new_tokens=2, prompt_logprobs=True).over()
        assert finished.prompt_logprobs == [-float(n) for n in range(1, 90)]


async def test_durations_of_steps_do_not_overlap():
    """Two steps are under way at one time; each was reported to last as long as both."""

    class Observer(NullObserver):
        total = 0.0

        def step_finished(self, stats):
            self.total += stats.duration

    observer = Observer()
    shard = FakeShardConfig(step_seconds=0.01)
    async with running_engine(observer=observer, shard=shard) as (engine, _):
        started = time.monotonic()
        await generate(engine, max_new_tokens=20).over()
        assert 0 < observer.total <= time.monotonic() - started


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self):
        return self.now


async def until_idle(engine):
    """Wait until the scheduler holds nothing."""
    for _ in range(2000):
        stats = engine.stats()
        if (stats.num_waiting, stats.num_running, stats.num_used_blocks) == (0, 0, 0):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"still busy: {engine.stats()}")
