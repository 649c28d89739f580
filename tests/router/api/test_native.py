"""TGI's dialect: what is accepted, what is refused, and which fault is told first."""

from contextlib import closing
from typing import Any

import msgspec
import pytest
from text_generation_router.api import native
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.native_types import GenerateBody
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.tokenizer import TokenizerPool

from tests.fakes.router_app import make_limits


async def prepare(
    tokenizer: TokenizerPool,
    parameters: dict[str, Any] | None = None,
    inputs: str = "hello",
    **options: Any,
) -> native.NativeGeneration:
    limits = make_limits(**options.pop("limits", {}))
    raw: dict[str, Any] = {"inputs": inputs}
    if parameters is not None:
        raw["parameters"] = parameters
    body = msgspec.convert(raw, GenerateBody)
    with closing(GrammarCompiler(options.pop("grammar_refusal", ""))) as grammars:
        values: dict[str, Any] = {"stream": False, **options}
        return await native.prepare(
            body, limits=limits, tokenizer=tokenizer, grammars=grammars, **values
        )


async def test_absent_parameters_sample_and_empty_ones_do_not(tokenizer: TokenizerPool) -> None:
    absent = await prepare(tokenizer)
    assert absent.requests[0].sampling.do_sample
    assert absent.seed(0) == absent.requests[0].sampling.seed
    empty = await prepare(tokenizer, {})
    assert not empty.requests[0].sampling.do_sample
    assert empty.seed(0) is None


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        ({"temperature": 0.7}, True),
        ({"temperature": 1.0}, False),
        ({"top_k": 3}, True),
        ({"top_p": 0.9}, True),
        ({"typical_p": 0.9}, True),
        ({"do_sample": True}, True),
        ({"seed": 3}, False),
    ],
)
async def test_what_makes_it_sample(
    tokenizer: TokenizerPool, parameters: dict[str, Any], samples: bool
) -> None:
    wanted = await prepare(tokenizer, parameters)
    assert wanted.requests[0].sampling.do_sample is samples
    assert (wanted.seed(0) is not None) is samples


async def test_every_parameter_arrives(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(
        tokenizer,
        {
            "temperature": 0.5,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
            "top_k": 10,
            "top_p": 0.9,
            "typical_p": 0.8,
            "max_new_tokens": 7,
            "return_full_text": True,
            "stop": ["a", "b"],
            "truncate": 3,
            "watermark": True,
            "decoder_input_details": True,
            "seed": 0,
            "top_n_tokens": 2,
            "ignore_eos": True,
        },
        limits={"prefill_logprobs": True},
    )
    request = wanted.requests[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 10, 0.9)
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.8, 1.2)
    assert (sampling.frequency_penalty, sampling.watermark, sampling.seed) == (0.3, True, 0)
    assert (request.max_new_tokens, request.top_n_tokens) == (7, 2)
    assert request.stop_sequences == ("a", "b")
    assert request.keep_stop_sequence
    assert request.ignore_eos
    assert request.prompt_logprobs
    assert len(request.prompt_ids) == 3
    assert tokenizer.text(request.prompt_ids) == "llo"
    assert wanted.text_before == "hello"
    assert wanted.details


async def test_without_a_limit_all_that_fits_is_generated(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(tokenizer, {})
    assert wanted.requests[0].max_new_tokens == 500 - 6


async def test_the_whole_limit_may_be_used(tokenizer: TokenizerPool) -> None:
    assert (await prepare(tokenizer, {"max_new_tokens": 494})).requests[0].max_new_tokens == 494


async def test_prompt_logprobs_need_the_flag(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(tokenizer, {"decoder_input_details": True})
    assert wanted.details
    assert not wanted.requests[0].prompt_logprobs


async def test_an_encoder_decoder_always_tells_its_start_token(tokenizer: TokenizerPool) -> None:
    limits = {"decoder_start_token_id": 7}
    wanted = await prepare(tokenizer, {"decoder_input_details": True}, limits=limits)
    assert wanted.requests[0].prompt_logprobs
    assert wanted.prefill_ids == (7,)
    assert len(wanted.requests[0].prompt_ids) == 6, "what the encoder reads"
    assert not (await prepare(tokenizer, {}, limits=limits)).requests[0].prompt_logprobs


async def test_candidates_have_seeds_of_their_own(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(tokenizer, {"best_of": 2, "do_sample": True})
    assert len({request.sampling.seed for request in wanted.requests}) == 2


# In the order in which they are checked: each request has its own fault and all later ones.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("best_of", {"best_of": 3}),
    ("temperature", {"temperature": 0.0}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("frequency_penalty", {"frequency_penalty": 2.5}),
    ("top_p", {"top_p": 1.0}),
    ("typical_p", {"typical_p": 0.0}),
    ("top_k", {"top_k": 0}),
    ("max_new_tokens", {"max_new_tokens": 0}),
    ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
    ("seed", {"seed": 2**64}),
    ("top_n_tokens", {"top_n_tokens": 6}),
    ("inputs", {}),
    ("truncate", {"truncate": 401}),
    ("adapter_id", {"adapter_id": "x"}),
    ("grammar", {"grammar": {"type": "json", "value": 5}}),
]


@pytest.mark.parametrize("index", range(len(FAULTS)))
async def test_the_first_fault_is_told(tokenizer: TokenizerPool, index: int) -> None:
    name = FAULTS[index][0]
    names = [later for later, _ in FAULTS[index:]]
    parameters: dict[str, Any] = {}
    for _, fault in reversed(FAULTS[index:]):
        parameters.update(fault)
    with pytest.raises(ValidationError, match=f"`{name}`") as caught:
        await prepare(tokenizer, parameters, inputs="" if "inputs" in names else "hello")
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"best_of": 0}, "`best_of` must be between 1 and 2"),
        ({"best_of": 2}, "sampling"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set"),
        ({"max_new_tokens": 495}, "6 `inputs` tokens and 495 `max_new_tokens`"),
        ({"max_new_tokens": 10000}, "10000"),
        ({"truncate": 0}, "`truncate`"),
        ({"stop": [""]}, "`stop`"),
        ({"temperature": -1}, "`temperature`"),
        ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 1e60}, "`repetition_penalty` is out of range"),
        ({"top_p": 0.999999999999}, "`top_p`"),
    ],
)
async def test_refusals_name_field_and_value(
    tokenizer: TokenizerPool, parameters: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        await prepare(tokenizer, parameters)


async def test_the_prompt_has_a_limit_of_its_own(tokenizer: TokenizerPool) -> None:
    with pytest.raises(ValidationError, match="at most 400 tokens"):
        await prepare(tokenizer, {}, inputs="x" * 450)
    with pytest.raises(ValidationError, match="`max_new_tokens` must be at most 500"):
        await prepare(tokenizer, {"max_new_tokens": 200}, inputs="x" * 350)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [({"best_of": 2, "do_sample": True}, "best_of"), ({"decoder_input_details": True}, "decoder")],
)
async def test_what_a_stream_cannot_show(
    tokenizer: TokenizerPool, parameters: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValidationError, match=name):
        await prepare(tokenizer, parameters, stream=True)
