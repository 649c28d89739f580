"""An encoder-decoder behind the engine: the prompt is the encoder's, the output the decoder's."""

import pytest
from text_generation_router.engine.info import EngineStartError
from text_generation_router.engine.request import GenerationError

from tests.fakes.shard_model import FakeShardConfig
from tests.router.engine.factories import generate, running_engine
from tests.router.engine.test_restart import bring_back, lost
from tests.router.scheduler.factories import START, expected_output


def expected(encoder, num_tokens):
    return expected_output([START], num_tokens, encoder_ids=encoder)


def encoder_decoder(**changes):
    return FakeShardConfig(decoder_start_token_id=START, **changes)


async def test_many_streams_at_once():
    async with running_engine(shard=encoder_decoder(), max_total_tokens=128) as (engine, _):
        sinks = [
            generate(engine, prompt=[n] * (n + 1), max_new_tokens=9, ignore_eos=True)
            for n in range(8)
        ]
        for n, sink in enumerate(sinks):
            finished = await sink.over()
            assert sink.token_ids == expected([n] * (n + 1), 9)
            assert finished.num_prompt_tokens == n + 1, "what the encoder read"
            assert finished.num_generated_tokens == 9
        assert engine.stats().num_used_blocks == 0
        assert engine.info.decoder_start_token_id == START
        assert await engine.health()


async def test_the_start_token_has_no_log_probability():
    async with running_engine(shard=encoder_decoder()) as (engine, _):
        finished = await generate(engine, prompt=5, prompt_logprobs=True).over()
        assert finished.prompt_logprobs == []


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("step", [1, 2, 5])
async def test_a_restart_reads_with_the_encoder_again(step, world_size):
    shard = encoder_decoder(break_at_step=step)
    changes = {"max_restarts": 1, "max_batch_size": 3, "max_batch_prefill_tokens": 20}
    async with running_engine(shard=shard, world_size=world_size, **changes) as (engine, shards):
        sinks = [
            generate(engine, prompt=[n] * 30, max_new_tokens=12, ignore_eos=True) for n in range(5)
        ]
        await lost(engine)
        await bring_back(shards)
        for n, sink in enumerate(sinks):
            await sink.over()
            assert sink.token_ids == expected([n] * 30, 12)


async def test_a_restart_with_a_smaller_cache_names_input_and_output():
    shard = encoder_decoder(break_at_step=3)
    async with running_engine(shard=shard, max_restarts=1) as (engine, shards):
        sink = generate(engine, prompt=[1] * 100, max_new_tokens=100)
        await lost(engine)
        await bring_back(shards, num_blocks=10)
        with pytest.raises(GenerationError, match=r"may grow to 200 tokens.*serve 128"):
            await sink.over()


async def test_the_cache_holds_two_tables_of_the_longest_sequence():
    shard = encoder_decoder(num_blocks=5)
    with pytest.raises(EngineStartError, match="the cache holds 48 tokens"):
        async with running_engine(shard=shard, max_total_tokens=64, max_batch_total_tokens=64):
            pass
