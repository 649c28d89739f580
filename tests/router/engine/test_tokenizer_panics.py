"""Tokens on which the tokenizers library breaks: its panics are no `Exception`s."""

import pytest
from text_generation_router.engine.request import EngineError
from text_generation_router.engine.vocabulary import TokenizerPanicError
from tokenizers import Tokenizer, decoders

from tests.fakes.shard_model import FakeShardConfig
from tests.router.engine.factories import generate, running_engine, word_tokenizer

FINE, BREAKING = 2, 3


def breaking_tokenizer() -> Tokenizer:
    tokenizer = word_tokenizer("ok", "HH")
    tokenizer.decoder = decoders.Strip("H", 0, 3)
    return tokenizer


async def test_a_token_harms_nobody_but_its_generation():
    """It ended the engine's loop, and everybody waited for ever."""
    shard = FakeShardConfig(script=(FINE, BREAKING))
    async with running_engine(tokenizer=breaking_tokenizer(), shard=shard) as (engine, _):
        long = generate(engine, prompt=[FINE], max_new_tokens=9)
        short = generate(engine, prompt=[FINE], max_new_tokens=1)
        with pytest.raises(EngineError, match="could not be delivered"):
            await long.over()
        assert (await short.over()).generated_text == "ok"
        assert await engine.health()


async def test_a_prompt_is_refused():
    """It was planned all the same, without a request, and the engine failed."""
    async with running_engine(tokenizer=breaking_tokenizer()) as (engine, _):
        with pytest.raises(TokenizerPanicError):
            generate(engine, prompt=[BREAKING])
        await generate(engine, prompt=[FINE], max_new_tokens=1).over()
        assert not engine.failed.is_set()


@pytest.mark.parametrize("prompt_logprobs", [False, True])
async def test_a_candidate_harms_nobody_but_its_generation(prompt_logprobs):
    """The engine failed."""
    shard = FakeShardConfig(script=(FINE,))
    async with running_engine(tokenizer=breaking_tokenizer(), shard=shard) as (engine, _):
        asked = {"top_n_tokens": 2, "prompt_logprobs": prompt_logprobs}
        sink = generate(engine, prompt=[FINE] * 3, **asked)
        with pytest.raises(EngineError, match="could not be delivered"):
            await sink.over()
        await generate(engine, prompt=[FINE]).over()
        assert not engine.failed.is_set()
