"""Reasoning is told apart in every dialect that has a place for it, streamed and not."""

from typing import Any

import pytest

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import CHATML, running_app
from tests.router.http.tool_clients import MESSAGES, anthropic_client, openai_client

TEMPLATE = CHATML + "{# <think> and </think> #}"
THINKS = ["<think>", "\nLet", " me", "\n</th", "ink>\n\n", "So", ".", END]
PLAIN = ["So", ".", END]


@pytest.mark.parametrize(("script", "reasoning"), [(THINKS, "Let me"), (PLAIN, None)])
async def test_chat(script: list[Any], reasoning: str | None) -> None:
    async with (
        running_app(FakeEngine(script), template=TEMPLATE) as app,
        openai_client(app) as client,
    ):
        whole = await client.chat.completions.create(model="tgi", messages=MESSAGES)
        stream = await client.chat.completions.create(
            model="tgi", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    message = whole.choices[0].message
    assert message.content == "So."
    for name in ("reasoning_content", "reasoning"):
        assert getattr(message, name, None) == reasoning
        thoughts = [getattr(delta, name, None) or "" for delta in deltas]
        assert "".join(thoughts) == (reasoning or "")
    assert "".join(delta.content or "" for delta in deltas) == "So."
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(script)
    details = whole.usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens == (5 if reasoning else 0)
    assert chunks[-1].usage == whole.usage


async def test_messages() -> None:
    async with (
        running_app(FakeEngine(THINKS), template=TEMPLATE) as app,
        anthropic_client(app) as client,
    ):
        whole = await client.messages.create(model="m", max_tokens=20, messages=MESSAGES)
        async with client.messages.stream(model="m", max_tokens=20, messages=MESSAGES) as stream:
            final = await stream.get_final_message()
    for message in (whole, final):
        assert [block.type for block in message.content] == ["thinking", "text"]
        thinking, text = (block.to_dict() for block in message.content)
        assert (thinking["thinking"], text["text"]) == ("Let me", "So.")


async def test_responses() -> None:
    async with (
        running_app(FakeEngine(THINKS), template=TEMPLATE) as app,
        openai_client(app) as client,
    ):
        whole = await client.responses.create(model="tgi", input="hi")
        stream = await client.responses.create(model="tgi", input="hi", stream=True)
        events: list[Any] = [event async for event in stream]
    for response in (whole, events[-1].response):
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.output[0].content[0].text == "Let me"
        assert response.output_text == "So."
        assert response.usage.output_tokens_details.reasoning_tokens == 5
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == "Let me"


async def test_a_template_without_marks_leaves_the_answer_alone() -> None:
    async with running_app(FakeEngine(THINKS)) as app:
        body = {"messages": MESSAGES}
        async with app.session.post("/v1/chat/completions", json=body) as response:
            message = (await response.json())["choices"][0]["message"]
    assert message["content"].startswith("<think>")
