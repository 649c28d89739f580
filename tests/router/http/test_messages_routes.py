"""Anthropic's Messages dialect, asked by Anthropic's own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from text_generation_router.engine.request import GenerationError, OverloadedError
from text_generation_router.http.api_keys import ApiKeys

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
CALL = ["So: ", '<tool_call>{"name": "f", ', '"arguments": {"a": 1}}', "</tool_call>", END]


@asynccontextmanager
async def served(
    engine: FakeEngine | None = None, **changes: Any
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, RunningApp]]:
    async with (
        running_app(engine, **changes) as app,
        anthropic.AsyncAnthropic(
            base_url=f"http://127.0.0.1:{app.port}", api_key="Secret", max_retries=0
        ) as client,
    ):
        yield client, app


async def ask(client: anthropic.AsyncAnthropic, **options: Any) -> Any:
    """Fields of the API that the client's signature has no longer, go as `extra_body`."""
    options = {"model": "m", "max_tokens": 20, "messages": MESSAGES, **options}
    return await client.messages.create(**options)


async def test_a_message() -> None:
    async with served(api_keys=ApiKeys(["Secret"])) as (client, app):
        message = await ask(client, system="Be brief.", extra_body={"temperature": 0.5, "top_k": 3})
        (generation,) = app.engine.generations
    assert [block.text for block in message.content] == ["Hello world"]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.role, message.type, message.model) == ("assistant", "message", "m")
    usage = message.usage
    num_prompt = len(generation.request.prompt_ids)
    assert usage.input_tokens + usage.cache_read_input_tokens == num_prompt
    assert usage.output_tokens == 3
    assert generation.request.sampling.top_k == 3
    assert generation.request.max_new_tokens == 20


async def test_the_events_of_a_stream() -> None:
    async with served() as (client, _):
        events = [event async for event in await ask(client, stream=True)]
    assert [event.type for event in events if event.type != "ping"] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens > 0
    assert events[-2].delta.stop_reason == "end_turn"


@pytest.mark.parametrize("script", [["Hello", " world", END], CALL, [END]])
async def test_a_stream_adds_up_to_the_whole_answer(script: list[Any]) -> None:
    async with served(FakeEngine(script)) as (client, _):
        whole = await ask(client, tools=TOOLS)
        async with client.messages.stream(
            model="m", max_tokens=20, messages=MESSAGES, tools=TOOLS
        ) as stream:
            final = await stream.get_final_message()
    assert [block.to_dict() | {"id": ""} for block in final.content] == [
        block.to_dict() | {"id": ""} for block in whole.content
    ]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_tools() -> None:
    async with served(FakeEngine(CALL)) as (client, app):
        message = await ask(client, tools=TOOLS)
        text, call = message.content
        await ask(
            client,
            tools=TOOLS,
            messages=[
                *MESSAGES,
                {"role": "assistant", "content": [text.to_dict(), call.to_dict()]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"},
                        {"type": "text", "text": "and now?"},
                    ],
                },
            ],
        )
        prompt = app.service.tokenizer.text(app.engine.generations[1].request.prompt_ids)
    assert message.stop_reason == "tool_use"
    assert (text.text, call.name, call.input) == ("So:", "f", {"a": 1})
    assert "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>user\nand now?" in prompt


async def test_a_tool_that_failed() -> None:
    result = {"type": "tool_result", "tool_use_id": "c", "content": "gone", "is_error": True}
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    said: Any = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    async with served() as (client, app):
        await ask(client, messages=[*MESSAGES, *said], tools=TOOLS)
        prompt = app.service.tokenizer.text(app.engine.generations[0].request.prompt_ids)
    assert "<|im_start|>tool\nError: gone<|im_end|>" in prompt


async def test_count_tokens() -> None:
    async with served() as (client, app):
        count = await client.messages.count_tokens(model="m", messages=MESSAGES)
        await ask(client)
        assert count.input_tokens == len(app.engine.generations[0].request.prompt_ids)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"extra_body": {"temperature": -1}}, "`temperature`"),
        ({"messages": []}, "`messages` cannot be empty"),
        ({"extra_body": {"max_tokens": 100_000}}, "`max_tokens`"),
        ({"extra_body": {"max_tokens": "x"}}, "max_tokens: Expected `int"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "`tools[0].type`"),
        ({"extra_body": {"mcp_servers": [{"type": "url"}]}}, "`mcp_servers`"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_wrong(options: dict[str, Any], text: str, is_stream: bool) -> None:
    async with served() as (client, _):
        with pytest.raises(anthropic.BadRequestError) as caught:
            await ask(client, stream=is_stream, **options)
    error: Any = caught.value.body
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert text in error["error"]["message"]


async def test_max_tokens_is_required() -> None:
    body = {"model": "m", "messages": MESSAGES}
    async with running_app() as app, app.session.post("/v1/messages", json=body) as response:
        assert response.status == 400
        assert "max_tokens" in (await response.json())["error"]["message"]


async def test_errors_have_anthropic_s_shape() -> None:
    engine = FakeEngine()
    async with served(engine) as (client, _):
        engine.refusal = OverloadedError("busy", retry_after=3)
        with pytest.raises(anthropic.RateLimitError):
            await ask(client, stream=True)
        engine.refusal = None
        engine.failure = GenerationError("boom")
        with pytest.raises(anthropic.APIStatusError, match="boom"):
            async for _event in await ask(client, stream=True):
                pass
    async with served(api_keys=ApiKeys(["Other"])) as (client, _):
        with pytest.raises(anthropic.AuthenticationError):
            await ask(client)


async def test_output_config_gives_a_schema() -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {}}}}
    least = {"model": "m", "max_tokens": 9, "messages": MESSAGES}
    async with running_app() as app:
        body = {**least, "output_config": {"format": wanted, "effort": "low"}}
        async with app.session.post("/v1/messages", json=body) as response:
            assert response.status == 200, await response.text()
        assert '"a"' in app.engine.generations[0].request.grammar
        body = {**least, "output_config": {"format": {"type": "xml"}}}
        async with app.session.post("/v1/messages", json=body) as response:
            assert response.status == 400
            assert "`output_config.format.type`" in await response.text()
