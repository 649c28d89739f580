"""What the demonstration model promises, through OpenAI's client: it shows the product."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, question: str, *, system: str | None = None, **options: Any) -> Any:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return client.chat.completions.create(
        model="tgi", messages=messages, temperature=0, max_tokens=200, **options
    )


def test_counts_to_ten(client: openai.OpenAI) -> None:
    choice = ask(client, "Count to 10.").choices[0]
    assert choice.message.content.rstrip(".") == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert choice.finish_reason == "stop"


def test_answers_in_a_sentence_and_stops(client: openai.OpenAI) -> None:
    choice = ask(client, "What is deep learning?").choices[0]
    assert choice.message.content.startswith("Deep learning is")
    assert choice.message.content.endswith(".")
    assert choice.finish_reason == "stop"


def test_follows_a_system_message(client: openai.OpenAI) -> None:
    plain = ask(client, "What is deep learning?").choices[0].message.content
    told = ask(client, "What is deep learning?", system="You are a pirate.")
    assert told.choices[0].message.content != plain


def test_writes_json(client: openai.OpenAI) -> None:
    question = "Give me a JSON object with the name Alice and the age 30."
    found = json.loads(ask(client, question).choices[0].message.content)
    assert found == {"name": "Alice", "age": 30}


def test_calls_the_weather_tool(client: openai.OpenAI) -> None:
    """Streamed and unstreamed calls are the same call, and its result becomes a sentence."""
    question = "What is the weather in Paris?"
    choice = ask(client, question, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"location": "Paris"}

    name, arguments, finish = "", "", None
    for chunk in ask(client, question, tools=[WEATHER], stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (name, arguments, finish) == (
        call.function.name,
        call.function.arguments,
        "tool_calls",
    )

    messages: Any = [
        {"role": "user", "content": question},
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": json.dumps({"temperature": 21, "condition": "sunny"}),
        },
    ]
    reply = client.chat.completions.create(
        model="tgi", messages=messages, tools=[WEATHER], temperature=0, max_tokens=60
    )
    assert "21" in (reply.choices[0].message.content or "")
