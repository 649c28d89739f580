"""Chat answers: the fast path gives the structured path's bytes, streams give the whole answer."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.api.chat import ChatGeneration
from text_generation_router.api.chat_answers import ChatStreamEncoder, build_answer
from text_generation_router.api.chat_types import ChatChunk, ChunkChoice, Delta
from text_generation_router.api.generation import Prompt
from text_generation_router.api.openai_answers import AnswerIdentity
from text_generation_router.engine.request import (
    FinishReason,
    GenerationRequest,
    SamplingParameters,
    TokenOutput,
)
from text_generation_router.prompt.tool_formats import HERMES

from tests.fakes.generations import make_end, make_generation, make_token, make_top_token

IDENTITY = AnswerIdentity(id="chatcmpl-1", created=1, model="m", system_fingerprint="f")
SPECIAL = {2: "</s>", 8: "<tool_call>", 9: "</tool_call>"}
EOS = make_token("</s>", token_id=2, special=True)
CALL_BODY = '\n{"name": "f", "arguments": {"a": "b"}}\n'


def make_wanted(**changes: Any) -> ChatGeneration:
    request = GenerationRequest(prompt_ids=(1,), max_new_tokens=9, sampling=SamplingParameters())
    values: dict[str, Any] = {
        "prompt": Prompt(text="p", token_ids=(1,)),
        "requests": (request,),
        "logprobs": False,
        **changes,
    }
    return ChatGeneration(**values)


def stream(wanted: ChatGeneration, tokens: list[TokenOutput], **end: Any) -> list[dict[str, Any]]:
    encoder = ChatStreamEncoder(wanted, IDENTITY, 0, SPECIAL)
    finished = make_end("", len(tokens), **end)
    events = [
        encoder.token(token, finished if i == len(tokens) - 1 else None)
        for i, token in enumerate(tokens)
    ]
    return [json.loads(event) for event in events if event is not None]


def whole(wanted: ChatGeneration, tokens: list[TokenOutput], **end: Any) -> dict[str, Any]:
    answer = build_answer(wanted, IDENTITY, [make_generation(tokens, **end)], SPECIAL)
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(answer))
    return decoded


@given(st.text())
def test_the_fast_path_gives_the_same_bytes(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    encoder = ChatStreamEncoder(make_wanted(), IDENTITY, 3, SPECIAL)
    encoder.token(make_token("first"), None)
    chunk = ChatChunk(
        id=IDENTITY.id,
        created=IDENTITY.created,
        model=IDENTITY.model,
        system_fingerprint=IDENTITY.system_fingerprint,
        choices=[ChunkChoice(3, Delta(content=text))],
    )
    assert encoder.token(make_token(text), None) == msgspec.json.encode(chunk)


def test_a_stream_in_bytes() -> None:
    encoder = ChatStreamEncoder(make_wanted(), IDENTITY, 0, SPECIAL)
    head = (
        b'{"object":"chat.completion.chunk","id":"chatcmpl-1","created":1,"model":"m",'
        b'"system_fingerprint":"f","choices":[{"index":0,"delta":'
    )
    assert encoder.token(make_token("O"), None) == (
        head + b'{"role":"assistant","content":"O"},"logprobs":null,"finish_reason":null}],'
        b'"usage":null}'
    )
    assert encoder.token(make_token('K"\n'), None) == (
        head + b'{"content":"K\\"\\n"},"logprobs":null,"finish_reason":null}],"usage":null}'
    )
    assert encoder.token(EOS, make_end()) == (
        head + b'{"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":null}'
    )


def test_one_chunk_for_every_token() -> None:
    tokens = [make_token("a"), make_token(""), make_token("b"), EOS]
    assert len(stream(make_wanted(), tokens)) == 4


def test_text_that_waited_comes_with_the_special_token_behind_it() -> None:
    tokens = [make_token("a"), make_token("b</s>", token_id=2, special=True)]
    assert whole(make_wanted(), tokens)["choices"][0]["message"]["content"] == "ab"
    assert stream(make_wanted(), tokens)[-1]["choices"][0]["delta"] == {"content": "b"}


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.LENGTH, "length"),
        (FinishReason.EOS_TOKEN, "stop"),
        (FinishReason.STOP_SEQUENCE, "stop"),
    ],
)
def test_finish_reasons_are_openai_s(reason: FinishReason, word: str) -> None:
    tokens = [make_token("a")]
    assert whole(make_wanted(), tokens, reason=reason)["choices"][0]["finish_reason"] == word
    assert stream(make_wanted(), tokens, reason=reason)[-1]["choices"][0]["finish_reason"] == word


def test_logprobs_list_whole_tokens_though_a_stop_string_holds_text_back() -> None:
    """The bug: with the stop string "earn" the tokens were said to be "D", "eep" and " l"."""
    tokens = [
        make_token("D", uncut_text="De"),
        make_token("eep", uncut_text="ep"),
        make_token(" l", uncut_text=" learning"),
    ]
    wanted = make_wanted(logprobs=True)
    answer = whole(wanted, tokens)["choices"][0]
    chunks = stream(wanted, tokens)
    for listed in (
        answer["logprobs"]["content"],
        [each for chunk in chunks for each in chunk["choices"][0]["logprobs"]["content"]],
    ):
        assert [each["token"] for each in listed] == ["De", "ep", " learning"]
        assert listed[0]["bytes"] == [68, 101]


def test_logprobs() -> None:
    # One more candidate than was asked for: as likely as the last.
    likely = [make_top_token("e", -0.125), make_top_token("f", -0.125)]
    token = make_token("é", logprob=-0.25, top_tokens=likely)
    expected = {
        "content": [
            {
                "token": "é",
                "logprob": -0.25,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "e", "logprob": -0.125, "bytes": [101]}],
            }
        ]
    }
    wanted = make_wanted(logprobs=True, top_logprobs=1)
    assert whole(wanted, [token])["choices"][0]["logprobs"] == expected
    assert stream(wanted, [token])[0]["choices"][0]["logprobs"] == expected


def test_usage_counts_a_prompt_once() -> None:
    generations = [make_generation([make_token("a"), EOS]) for _ in range(2)]
    wanted = make_wanted(requests=make_wanted().requests * 2)
    answer = build_answer(wanted, IDENTITY, generations, SPECIAL)
    assert msgspec.to_builtins(answer.usage) == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_a_message_that_only_calls() -> None:
    tokens = [make_token(f"<tool_call>{CALL_BODY}</tool_call>"), EOS]
    choice = whole(make_wanted(tool_format=HERMES), tokens)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": "b"}'}
    assert call["id"].isdigit()


def test_marks_may_be_special_tokens() -> None:
    tokens = [
        make_token("So:"),
        make_token("<tool_call>", token_id=8, special=True),
        make_token(CALL_BODY),
        make_token("</tool_call>", token_id=9, special=True),
        EOS,
    ]
    message = whole(make_wanted(tool_format=HERMES), tokens)["choices"][0]["message"]
    assert message["content"] == "So:"
    assert message["tool_calls"][0]["function"]["name"] == "f"
    without = whole(make_wanted(), tokens)["choices"][0]["message"]
    assert without == {"role": "assistant", "content": "So:" + CALL_BODY}


def test_a_call_cut_by_the_limit_is_text() -> None:
    tokens = [make_token('<tool_call>{"na')]
    wanted = make_wanted(tool_format=HERMES)
    choice = whole(wanted, tokens, reason=FinishReason.LENGTH)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": '<tool_call>{"na'}


def joined_calls(pieces: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The functions that the pieces of a stream make up."""
    calls: list[dict[str, str]] = []
    for piece in pieces:
        function = piece["function"]
        if piece["id"]:
            calls.append({"name": function["name"], "arguments": ""})
        else:
            assert function["name"] is None
        assert piece["index"] == len(calls) - 1
        calls[-1]["arguments"] += function["arguments"]
    return calls


def test_arguments_are_streamed_in_pieces() -> None:
    texts = ["<tool_call>", '{"name": "f", "argu', 'ments": {', '"a": ', '"b"}', "}</tool_call>"]
    tokens = [*map(make_token, texts), EOS]
    chunks = stream(make_wanted(tool_format=HERMES), tokens)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    (first,) = deltas[1].pop("tool_calls")
    assert first.pop("id").isdigit()
    assert first == {"index": 0, "type": "function", "function": {"name": "f", "arguments": "{"}}
    assert deltas == [
        {"role": "assistant", "content": ""},
        {},
        *(
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "",
                        "type": "function",
                        "function": {"name": None, "arguments": text},
                    }
                ]
            }
            for text in ('"a": ', '"b"}')
        ),
        {},
    ]


def test_a_call_cut_among_its_arguments_is_a_call() -> None:
    tokens = [make_token('<tool_call>{"name": "f", "arguments": {"a"')]
    wanted = make_wanted(tool_format=HERMES)
    choice = whole(wanted, tokens, reason=FinishReason.LENGTH)["choices"][0]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a"'}


@given(
    st.lists(
        st.sampled_from([f"<tool_call>{CALL_BODY}</tool_call>", "text", " ", "<tool", "é"]),
        max_size=5,
    ).map("".join),
    st.data(),
)
def test_streamed_and_whole_answers_are_equal(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=9).map(sorted))
    tokens = [
        make_token(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
    ] + [EOS]
    wanted = make_wanted(tool_format=HERMES)
    choice = whole(wanted, tokens)["choices"][0]
    deltas = [chunk["choices"][0] for chunk in stream(wanted, tokens)]
    pieces = [call for delta in deltas for call in delta["delta"].get("tool_calls", [])]
    calls = joined_calls(pieces)
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == (
        choice["message"]["content"] or ""
    )
    assert calls == [call["function"] for call in choice["message"].get("tool_calls", [])]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"]
    assert [delta["delta"].get("role") for delta in deltas] == (
        ["assistant"] + [None] * (len(deltas) - 1)
    )
