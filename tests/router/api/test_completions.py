"""OpenAI's completions: forms of prompts, choices in order, and the shapes of answers."""

import json
from contextlib import closing
from typing import Any

import msgspec
import pytest
from text_generation_router.api.completion_answers import (
    CompletionStreamEncoder,
    build_answer,
    encode_usage_chunk,
    without_output,
)
from text_generation_router.api.completion_types import CompletionBody
from text_generation_router.api.completions import CompletionGeneration, prepare
from text_generation_router.api.errors import (
    BatchSizeError,
    RequestError,
    SuffixError,
    ValidationError,
)
from text_generation_router.api.limits import RequestLimits
from text_generation_router.api.openai_answers import AnswerIdentity
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.tokenizer import TokenizerPool

from tests.fakes.generations import make_end, make_generation, make_token, make_top_token
from tests.fakes.router_app import make_limits

IDENTITY = AnswerIdentity(id="cmpl-1", created=1, model="m", system_fingerprint="f")
SPECIAL = {2: "</s>"}
EOS = make_token("</s>", token_id=2, special=True)


async def wanted_for(
    tokenizer: TokenizerPool, limits: RequestLimits | None = None, **fields: Any
) -> CompletionGeneration:
    body = msgspec.convert({"prompt": "hi", **fields}, CompletionBody)
    limits = limits or make_limits()
    with closing(GrammarCompiler()) as grammars:
        return await prepare(body, limits=limits, tokenizer=tokenizer, grammars=grammars)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("hi", ["hi"]),
        (["hi", "ho"], ["hi", "ho"]),
        ([1, 76, 77], ["<s>hi"]),
        ([[76], [77]], ["h", "i"]),
    ],
)
async def test_forms_of_prompts(tokenizer: TokenizerPool, prompt: Any, texts: list[str]) -> None:
    wanted = await wanted_for(tokenizer, prompt=prompt)
    assert [entry.text for entry in wanted.prompts] == texts


async def test_texts_get_their_special_tokens_and_ids_do_not(tokenizer: TokenizerPool) -> None:
    assert (await wanted_for(tokenizer)).prompts[0].token_ids[0] == 1
    assert (await wanted_for(tokenizer, prompt=[76])).prompts[0].token_ids == (76,)


async def test_null_is_absent_everywhere(tokenizer: TokenizerPool) -> None:
    fields = dict.fromkeys(CompletionBody.__struct_fields__)
    fields["prompt"] = "hi"
    assert len((await wanted_for(tokenizer, **fields)).requests) == 1


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"prompt": []}, ValidationError, "prompt"),
        ({"prompt": ""}, ValidationError, "prompt"),
        ({"prompt": [[]]}, ValidationError, "prompt"),
        ({"prompt": ["a", 1]}, ValidationError, "prompt"),
        ({"prompt": [261]}, ValidationError, "prompt"),
        ({"prompt": ["a"] * 5}, BatchSizeError, "prompt"),
        ({"suffix": "b"}, SuffixError, "suffix"),
        ({"best_of": 3}, ValidationError, "best_of"),
        ({"best_of": 0}, ValidationError, "best_of"),
        ({"n": 3, "best_of": 2}, ValidationError, "best_of"),
        ({"best_of": 2, "stream": True}, ValidationError, "best_of"),
        ({"prompt": [76] * 401}, ValidationError, "prompt"),
        ({"echo": True, "logprobs": 1}, ValidationError, "echo"),
        ({"logprobs": 6}, ValidationError, "logprobs"),
        ({"max_tokens": 0}, ValidationError, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "stream": True}, ValidationError, "max_tokens"),
        ({"max_tokens": 500}, ValidationError, "max_tokens"),
        ({"prompt": "x" * 450}, ValidationError, "prompt"),
        ({"response_format": {"type": "xml"}}, ValidationError, "response_format"),
    ],
)
async def test_refused_by_name(
    tokenizer: TokenizerPool, fields: dict[str, Any], error: type[RequestError], param: str
) -> None:
    with pytest.raises(error, match=f"`{param}`") as caught:
        await wanted_for(tokenizer, **fields)
    assert caught.value.param == param


async def test_choices_are_in_the_order_of_prompts(tokenizer: TokenizerPool) -> None:
    wanted = await wanted_for(tokenizer, prompt=["a", "b"], n=2, seed=5)
    assert [request.sampling.seed for request in wanted.requests] == [5, 6, 5, 6]
    prompts = [tokenizer.text(request.prompt_ids[1:]) for request in wanted.requests]
    assert prompts == ["a", "a", "b", "b"]
    generations = [make_generation([make_token(str(i)), EOS]) for i in range(4)]
    answer = build_answer(wanted, IDENTITY, generations, SPECIAL)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "3"),
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 8)
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


async def test_the_most_likely_of_best_of_are_the_choices(tokenizer: TokenizerPool) -> None:
    wanted = await wanted_for(tokenizer, prompt=["a", "b"], best_of=2, seed=5)
    assert [request.sampling.seed for request in wanted.requests] == [5, 6, 5, 6]
    generations = [
        make_generation([make_token(str(i), logprob=logprob), EOS])
        for i, logprob in enumerate([-3.0, -1.0, -2.0, -4.0])
    ]
    answer = build_answer(wanted, IDENTITY, generations, SPECIAL)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "1"), (1, "2")]
    # Every candidate's tokens were generated, a prompt was read once.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 8)


async def test_a_stream_in_bytes(tokenizer: TokenizerPool) -> None:
    wanted = await wanted_for(tokenizer)
    encoder = CompletionStreamEncoder(wanted, IDENTITY, 0, SPECIAL, usage_in_last=True)
    tail = b'"model":"m","system_fingerprint":"f"'
    assert encoder.token(make_token("a\n"), None) == (
        b'{"object":"text_completion","id":"cmpl-1","created":1,"choices":[{"index":0,'
        b'"text":"a\\n","logprobs":null,"finish_reason":null}],' + tail + b"}"
    )
    assert encoder.token(EOS, make_end(num_tokens=2)) == (
        b'{"object":"text_completion","id":"cmpl-1","created":1,"choices":[{"index":0,'
        b'"text":"","logprobs":null,"finish_reason":"stop"}],' + tail + b',"usage":'
        b'{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,'
        b'"prompt_tokens_details":{"cached_tokens":4}}}'
    )


async def test_the_usage_chunk_has_the_sum(tokenizer: TokenizerPool) -> None:
    wanted = await wanted_for(tokenizer, prompt=["a", "b"])
    chunk = json.loads(encode_usage_chunk(wanted, IDENTITY, [make_end(), make_end()]))
    assert chunk["choices"] == []
    assert chunk["usage"]["total_tokens"] == 22


async def test_echo_puts_the_prompt_before(tokenizer: TokenizerPool) -> None:
    wanted = await wanted_for(tokenizer, echo=True)
    answer = build_answer(wanted, IDENTITY, [make_generation([make_token("!")])], SPECIAL)
    assert answer.choices[0].text == "hi!"
    encoder = CompletionStreamEncoder(wanted, IDENTITY, 0, SPECIAL, usage_in_last=False)
    texts = [
        json.loads(encoder.token(make_token(text), None))["choices"][0]["text"] for text in "ab"
    ]
    assert texts == ["hia", "b"]


@pytest.mark.parametrize(
    ("logprobs", "top"), [(0, None), (1, [{"e": -0.125, "éa": -0.25}, {"</s>": -0.5}])]
)
async def test_logprobs(tokenizer: TokenizerPool, logprobs: int, top: Any) -> None:
    wanted = await wanted_for(tokenizer, logprobs=logprobs)
    # Two that are as likely: no more are told than were asked for, and the token itself.
    likely = [make_top_token("e", -0.125), make_top_token("f", -0.125)]
    tokens = [make_token("éa", logprob=-0.25, top_tokens=likely), EOS]
    answer = build_answer(wanted, IDENTITY, [make_generation(tokens)], SPECIAL)
    whole = msgspec.to_builtins(answer.choices[0].logprobs)
    assert whole == {
        "tokens": ["éa", "</s>"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": top,
        "text_offset": [0, 2],
    }
    encoder = CompletionStreamEncoder(wanted, IDENTITY, 0, SPECIAL, usage_in_last=False)
    parts = [json.loads(encoder.token(token, None))["choices"][0]["logprobs"] for token in tokens]
    assert [part["text_offset"] for part in parts] == [[0], [2]]


async def test_logprobs_list_whole_tokens_though_a_stop_string_holds_text_back(
    tokenizer: TokenizerPool,
) -> None:
    wanted = await wanted_for(tokenizer, logprobs=0)
    tokens = [make_token("D", uncut_text="De"), make_token("eep l", uncut_text="ep learning")]
    answer = build_answer(wanted, IDENTITY, [make_generation(tokens)], SPECIAL)
    whole = answer.choices[0].logprobs
    assert whole is not None
    assert (whole.tokens, whole.text_offset) == (["De", "ep learning"], [0, 2])
    encoder = CompletionStreamEncoder(wanted, IDENTITY, 0, SPECIAL, usage_in_last=False)
    chunks = [json.loads(encoder.token(token, None))["choices"][0] for token in tokens]
    assert [chunk["logprobs"]["tokens"] for chunk in chunks] == [["De"], ["ep learning"]]
    assert [chunk["logprobs"]["text_offset"] for chunk in chunks] == [[0], [2]]
    assert answer.choices[0].text == "".join(chunk["text"] for chunk in chunks) == "Deep l"


@pytest.mark.parametrize(
    ("changes", "fields", "reason"),
    [
        ({}, {}, "--enable-prefill-logprobs"),
        ({"prefill_logprobs": True}, {"stream": True}, "streaming"),
        ({"prefill_logprobs": True, "decoder_start_token_id": 0}, {}, "encoder"),
    ],
)
async def test_why_a_prompt_has_no_logprobs(
    tokenizer: TokenizerPool, changes: Any, fields: Any, reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        await wanted_for(tokenizer, make_limits(**changes), echo=True, logprobs=1, **fields)


@pytest.mark.parametrize(
    ("prompt", "text", "tokens", "offsets"),
    [
        # A text's first token is one that the tokenizer adds, and no part of it.
        ("aé", "aé", ["<s>", "a", "é", ""], [0, 0, 1, 2]),
        ("<s>a", "<s>a", ["<s>", "<s>", "a"], [0, 0, 3]),
        ([1, 69], "<s>a", ["<s>", "a"], [0, 3]),
    ],
)
async def test_logprobs_of_prompt_and_output(
    tokenizer: TokenizerPool, prompt: Any, text: str, tokens: list[str], offsets: list[int]
) -> None:
    limits = make_limits(prefill_logprobs=True)
    wanted = await wanted_for(tokenizer, limits, prompt=prompt, echo=True, logprobs=1)
    (request,) = wanted.requests
    assert request.prompt_logprobs
    assert len(request.prompt_ids) == len(tokens)
    count = len(tokens) - 1
    generation = make_generation(
        [make_token("!", logprob=-0.5, top_tokens=[make_top_token("?", -0.25)]), EOS],
        prompt_logprobs=[-1.5] * count,
        prompt_top_tokens=[[make_top_token("", -1.0), make_top_token("", -2.0)]] * count,
    )
    (choice,) = build_answer(wanted, IDENTITY, [generation], SPECIAL).choices
    assert choice.text == f"{text}!"
    assert msgspec.to_builtins(choice.logprobs) == {
        "tokens": [*tokens, "!", "</s>"],
        "token_logprobs": [None, *[-1.5] * count, -0.5, -0.5],
        "top_logprobs": [
            None,
            *({"": -1.0, token: -1.0 if token == "" else -1.5} for token in tokens[1:]),
            {"?": -0.25, "!": -0.5},
            {"</s>": -0.5},
        ],
        "text_offset": [*offsets, len(text), len(text) + 1],
    }


async def test_a_prompt_and_no_output(tokenizer: TokenizerPool) -> None:
    limits = make_limits(prefill_logprobs=True)
    wanted = await wanted_for(tokenizer, limits, echo=True, logprobs=0, max_tokens=0)
    assert wanted.requests[0].max_new_tokens == 1
    generation = make_generation([make_token("!")], prompt_logprobs=[-1.0, -2.0])
    answer = build_answer(wanted, IDENTITY, [without_output(generation)], SPECIAL)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("hi", "length")
    assert msgspec.to_builtins(choice.logprobs) == {
        "tokens": ["<s>", "h", "i"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": None,
        "text_offset": [0, 0, 1],
    }
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 0)
