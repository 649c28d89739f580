"""The dialects' own clients, and one conversation with tools in the words of each."""

from typing import Any

import anthropic
import openai

from tests.fakes.router_app import RunningApp
from tests.router.prompt.answers import FUNCTIONS

# Room for the long prompts that tools make.
LIMITS: Any = {"max_input_tokens": 3000, "max_total_tokens": 4000}
MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
RESPONSES_TOOLS: Any = [{"type": "function", **tool["function"], "strict": False} for tool in TOOLS]
ANTHROPIC_REQUEST: Any = {
    "model": "m",
    "max_tokens": 900,
    "messages": MESSAGES,
    "tools": [{"name": name, "input_schema": schema} for name, schema in FUNCTIONS.items()],
}


def openai_client(app: RunningApp) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-")


def anthropic_client(app: RunningApp) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{app.port}", api_key="-")


async def both_messages(client: anthropic.AsyncAnthropic, **changes: Any) -> list[Any]:
    """Anthropic's answer to the request, whole and as its client puts a stream together."""
    whole = await client.messages.create(**ANTHROPIC_REQUEST | changes)
    async with client.messages.stream(**ANTHROPIC_REQUEST | changes) as stream:
        return [whole, await stream.get_final_message()]


async def require_chat(
    client: openai.AsyncOpenAI, text: str | None, arguments: str | None
) -> tuple[Any, list[Any]]:
    """Ask with tools: the text, and the arguments of the only call, are the same whole and
    streamed. Returns the answer and a stream's deltas.
    """
    options: Any = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS}
    answer = await client.chat.completions.create(**options)
    stream = await client.chat.completions.create(**options, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    (choice,) = answer.choices
    assert choice.message.content == text
    assert "".join(delta.content or "" for delta in deltas) == (text or "")
    assert choice.finish_reason == ("stop" if arguments is None else "tool_calls")
    found = [call.function.arguments for call in choice.message.tool_calls or []]
    assert found == ([] if arguments is None else [arguments])
    pieces = [call.function.arguments for delta in deltas for call in delta.tool_calls or []]
    assert pieces == ([] if arguments is None else ['{"a"', ": 1", "}"])
    return answer, deltas
