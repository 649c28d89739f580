"""OpenAI's Responses dialect, asked by OpenAI's own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from text_generation_router.engine.request import GenerationError, OverloadedError

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app

TOOLS: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
CALL = ["So: ", '<tool_call>{"name": "f", ', '"arguments": {"a": 1}}', "</tool_call>", END]


@asynccontextmanager
async def served(
    engine: FakeEngine | None = None,
) -> AsyncIterator[tuple[openai.AsyncOpenAI, RunningApp]]:
    async with (
        running_app(engine) as app,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-", max_retries=0
        ) as client,
    ):
        yield client, app


async def ask(client: openai.AsyncOpenAI, **options: Any) -> Any:
    return await client.responses.create(**{"model": "tgi", "input": "hi", **options})


def prompt(app: RunningApp, index: int = -1) -> str:
    return app.service.tokenizer.text(app.engine.generations[index].request.prompt_ids)


async def test_a_response() -> None:
    async with served() as (client, app):
        found = await ask(client, instructions="Be brief.", max_output_tokens=20, temperature=0)
        request = app.engine.generations[0].request
        assert prompt(app).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    assert found.output_text == "Hello world"
    assert (found.status, found.error, found.incomplete_details) == ("completed", None, None)
    assert found.usage.input_tokens == len(request.prompt_ids)
    assert found.usage.total_tokens == found.usage.input_tokens + 3
    assert (request.max_new_tokens, request.sampling.do_sample) == (20, False)


async def test_the_events_of_a_stream() -> None:
    async with served() as (client, _):
        events = [event async for event in await ask(client, stream=True)]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.output == []
    assert events[2].item.content == []
    assert events[-1].response.output_text == "Hello world"


def comparable(response: Any) -> Any:
    """Without what differs from answer to answer."""
    found = response.to_dict()
    for item in found["output"]:
        item.pop("id")
        item.pop("call_id", None)
        item.pop("parsed_arguments", None)
        for part in item.get("content", []):
            part.pop("parsed", None)
    return {key: found[key] for key in ("output", "status", "usage", "tools", "incomplete_details")}


@pytest.mark.parametrize("script", [["Hello", " world", END], CALL, CALL[1:], [END]])
async def test_a_stream_ends_with_the_whole_answer(script: list[Any]) -> None:
    async with served(FakeEngine(script)) as (client, _):
        whole = await ask(client, tools=TOOLS)
        events = [event async for event in await ask(client, tools=TOOLS, stream=True)]
        async with client.responses.stream(model="tgi", input="hi", tools=TOOLS) as stream:
            final = await stream.get_final_response()
    assert comparable(events[-1].response) == comparable(whole)
    assert final.output_text == whole.output_text


async def test_tools() -> None:
    async with served(FakeEngine(CALL)) as (client, app):
        found = await ask(client, tools=TOOLS)
        message, call = found.output
        await ask(
            client,
            tools=TOOLS,
            input=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                message.to_dict(),
                call.to_dict(),
                {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
            ],
        )
        text = prompt(app)
    assert (message.content[0].text, call.name, call.arguments) == ("So:", "f", '{"a": 1}')
    assert "<|im_start|>system\nBe brief.<|im_end|>" in text
    assert "<|im_start|>assistant\nSo:<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>" in text


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    async with served() as (client, _):
        found = await ask(client, max_output_tokens=1)
        events = [event async for event in await ask(client, max_output_tokens=1, stream=True)]
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["web_search_call.results"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "include": ["reasoning.encrypted_content"]}, "top_logprobs"),
        ({"top_logprobs": 99, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": []}, "input"),
        ({"input": "x" * 500}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_refused_is_named(
    options: dict[str, Any], param: str, is_stream: bool
) -> None:
    async with served() as (client, _):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await ask(client, stream=is_stream, **options)
    assert caught.value.param == param


async def test_store_false_is_what_happens_anyway() -> None:
    async with served() as (client, _):
        assert (await ask(client, store=False)).output_text == "Hello world"


async def test_errors() -> None:
    engine = FakeEngine()
    async with served(engine) as (client, _):
        engine.failure = GenerationError("boom")
        events = [event async for event in await ask(client, stream=True)]
        assert events[-1].type == "response.failed"
        assert "boom" in events[-1].response.error.message
        engine.refusal = OverloadedError("busy", retry_after=3)
        with pytest.raises(openai.RateLimitError):
            await ask(client, stream=True)
