"""OpenAI's dialects over the wire."""

import json
from typing import Any

import pytest
from text_generation_router.engine.request import GenerationError, OverloadedError

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import MODEL_ID, RunningApp, running_app

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = ['<tool_call>{"name": "f", ', '"arguments": {"a": 1}}', "</tool_call>", END]


async def events(app: RunningApp, path: str, body: dict[str, Any]) -> list[Any]:
    """The decoded events of a stream, `[DONE]` as text."""
    async with app.session.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    assert text.endswith("data: [DONE]\n\n")
    frames = text.removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") for frame in frames)
    datas = [frame.removeprefix("data: ") for frame in frames]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


async def post(app: RunningApp, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with app.session.post(path, json=body) as response:
        return response.status, await response.json()


async def test_chat() -> None:
    async with (
        running_app() as app,
        app.session.post(CHAT, json={"messages": MESSAGES}) as response,
    ):
        answer = await response.json()
        headers = response.headers
    assert list(answer) == [
        "object", "id", "created", "model", "system_fingerprint", "choices", "usage"
    ]  # fmt: skip
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["model"], answer["system_fingerprint"]) == (MODEL_ID, "4.0-native")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["completion_tokens"] == 3
    assert headers["x-compute-characters"] == str(len("<|im_start|>user\nhi<|im_end|>\n") + 22)


@pytest.mark.parametrize(
    ("model", "shown"), [("dummy", "dummy"), ("tgi", MODEL_ID), (None, MODEL_ID)]
)
async def test_the_model_s_name(model: str | None, shown: str) -> None:
    async with running_app() as app:
        _, answer = await post(app, CHAT, {"messages": MESSAGES, "model": model})
    assert answer["model"] == shown


@pytest.mark.parametrize(
    ("path", "prompt", "too_long"),
    [
        (CHAT, "messages", {"messages": [{"role": "user", "content": "x" * 600}]}),
        ("/v1/completions", "prompt", {"prompt": "x" * 600}),
        ("/v1/completions", "prompt", {"prompt": [1] * 600}),
    ],
)
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 5}])
async def test_a_prompt_that_is_too_long_is_told_as_openai_does(
    path: str, prompt: str, too_long: dict[str, Any], limit: dict[str, int]
) -> None:
    """Clients find the code or the sentence, and shorten the conversation."""
    async with running_app() as app:
        status, answer = await post(app, path, {**too_long, **limit})
    error = answer["error"]
    assert (status, answer["error_type"]) == (422, "validation")
    assert (error["param"], error["code"]) == (prompt, "context_length_exceeded")
    assert f"`{prompt}` must have at most 400 tokens. Given: 6" in error["message"]
    assert "This model's maximum context length is 500 tokens" in error["message"]


async def test_too_many_new_tokens_are_told_as_openai_does() -> None:
    async with running_app() as app:
        _, answer = await post(app, CHAT, {"messages": MESSAGES, "max_tokens": 490})
    error = answer["error"]
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    assert "This model's maximum context length is 500 tokens" in error["message"]


async def test_chat_stream() -> None:
    async with running_app() as app:
        chunks = await events(app, CHAT, {"messages": MESSAGES})
    assert chunks[-1] == "[DONE]"
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "Hello"},
        {"content": " world"},
        {"content": ""},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]


async def test_the_usage_chunk_comes_once_and_last() -> None:
    body = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
    async with running_app() as app:
        chunks = await events(app, CHAT, body)
    *tokens, usage, done = chunks
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + 3
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in tokens)


async def test_several_choices_share_a_stream() -> None:
    async with running_app() as app:
        chunks = await events(app, CHAT, {"messages": MESSAGES, "n": 2})
        _, answer = await post(app, CHAT, {"messages": MESSAGES, "n": 2})
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert "".join(choice["delta"]["content"] for choice in mine) == "Hello world"
        assert mine[-1]["finish_reason"] == "stop"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


async def test_tool_calls() -> None:
    body = {"messages": MESSAGES, "tools": TOOLS}
    async with running_app(FakeEngine(CALL)) as app:
        _, answer = await post(app, CHAT, body)
        chunks = await events(app, CHAT, body)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert choice["message"]["tool_calls"][0]["function"] == function
    pieces = [
        call["function"]
        for chunk in chunks[:-1]
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert [piece["name"] for piece in pieces if piece["name"]] == ["f"]
    assert "".join(piece["arguments"] for piece in pieces) == function["arguments"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": MESSAGES, "max_tokens": "5"}, "max_tokens"),
        ({"messages": MESSAGES, "stop": [1]}, "stop[0]"),
        ([], None),
    ],
)
async def test_a_field_of_another_type_is_named_as_param(body: Any, param: str | None) -> None:
    async with running_app() as app:
        status, answer = await post(app, CHAT, body)
    assert (status, answer["error"]["param"]) == (422, param)


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_are_http_errors_also_for_streams(stream: bool) -> None:
    body = {"messages": MESSAGES, "stream": stream, "top_p": 2}
    async with running_app() as app:
        assert await post(app, CHAT, body) == (
            422,
            {
                "error": {
                    "message": "Input validation error: `top_p` must be between 0 and 1. "
                    "Given: 2.0",
                    "type": "invalid_request_error",
                    "param": "top_p",
                    "code": "validation",
                },
                "error_type": "validation",
            },
        )
        app.engine.refusal = OverloadedError("Model is overloaded", retry_after=2)
        async with app.session.post(CHAT, json={"messages": MESSAGES}) as response:
            assert response.status == 429
            assert response.headers["retry-after"] == "2"
            assert (await response.json())["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": MESSAGES}), ("/v1/completions", {"prompt": "hi"})]
)
async def test_a_failure_in_the_middle_of_a_stream(path: str, body: dict[str, Any]) -> None:
    engine = FakeEngine()
    engine.failure = GenerationError("broke")
    async with running_app(engine) as app:
        chunks = await events(app, path, body)
        status, answer = await post(app, path, body)
    assert chunks[-2]["error"]["message"] == "Request failed during generation: broke"
    assert chunks[-2]["error"]["http_status_code"] == 424
    assert (status, answer["error_type"]) == (424, "generation")


async def test_no_template() -> None:
    async with running_app(template=None) as app:
        status, answer = await post(app, CHAT, {"messages": MESSAGES, "stream": True})
    assert status == 422
    assert answer["error_type"] == "template_error"
    assert answer["error"]["message"].startswith("Template error: template not found")


async def test_completions() -> None:
    async with running_app() as app:
        status, answer = await post(app, "/v1/completions", {"prompt": ["a", "b"]})
        chunks = await events(app, "/v1/completions", {"prompt": ["a", "b"]})
    assert status == 200
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == ["Hello world"] * 2
    for index in (0, 1):
        mine = [c for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert [c["choices"][0]["finish_reason"] for c in mine] == [None, None, "stop"]
        assert ["usage" in c for c in mine] == [False, False, True]


async def test_how_likely_a_prompt_is() -> None:
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0}
    async with (
        running_app(prefill_logprobs=True) as app,
        app.session.post("/v1/completions", json=body) as response,
    ):
        answer = await response.json()
        assert response.headers["x-generated-tokens"] == "0"
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1, -1]
    assert choice["logprobs"]["top_logprobs"] == [
        None,
        {"t0": -1, "a": -1},
        {"t0": -1, "b": -1},
    ]
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ({"prompt": ["a"] * 5}, "batch size exceeded"),
        ({"prompt": "a", "suffix": "b"}, "suffix not supported"),
        ({"prompt": []}, "validation"),
        ({"prompt": 3}, "validation"),
        ({}, "validation"),
    ],
)
async def test_completion_refusals(body: dict[str, Any], error_type: str) -> None:
    async with running_app() as app:
        status, answer = await post(app, "/v1/completions", body)
    assert (status, answer["error_type"]) == (422, error_type)


async def test_chat_tokenize() -> None:
    async with running_app() as app:
        status, answer = await post(app, "/chat_tokenize", {"messages": MESSAGES})
        refused, _ = await post(app, "/chat_tokenize", {"messages": []})
    assert status == 200
    assert answer["templated_text"].endswith("<|im_start|>assistant\n")
    assert answer["tokenize_response"][0] == {
        "id": 3,
        "text": "<|im_start|>",
        "start": 0,
        "stop": 12,
    }
    assert refused == 422
