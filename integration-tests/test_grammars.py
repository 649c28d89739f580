"""Structured output by real clients: the demo model is weak, its grammar holds."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from huggingface_hub import InferenceClient

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
        },
    },
}
ASK: Any = [{"role": "user", "content": "Tell me about a person."}]


class Person(pydantic.BaseModel):
    """What `parse` turns into a schema."""

    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=130)
    mood: Literal["good", "bad"]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_pydantic(client: openai.OpenAI, temperature: float) -> None:
    found = client.chat.completions.parse(
        model="tgi",
        messages=ASK,
        response_format=Person,
        max_tokens=200,
        temperature=temperature,
        seed=1,
    )
    assert isinstance(found.choices[0].message.parsed, Person)
    assert found.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("seed", range(5))
def test_json_schema(server: Any, seed: int) -> None:
    """Hot enough that a free model would say anything."""
    client = InferenceClient(server.base_url)
    text = client.text_generation(
        "Say something.",
        grammar={"type": "json", "value": PERSON},
        max_new_tokens=200,
        temperature=3.0,
        seed=seed,
        return_full_text=False,
    )
    jsonschema.validate(json.loads(text), PERSON)


def test_regex_stream(server: Any) -> None:
    client = InferenceClient(server.base_url)
    pattern = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
    *_, last = client.text_generation(
        "An address:",
        grammar={"type": "regex", "value": pattern},
        max_new_tokens=40,
        stream=True,
        details=True,
        return_full_text=False,
    )
    assert re.fullmatch(pattern, last.generated_text)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_forced_tools(client: openai.OpenAI, choice: Any) -> None:
    options: Any = {
        "model": "tgi",
        "messages": [{"role": "user", "content": "What is 2 and 2?"}],
        "tools": [WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 150,
        "temperature": 0,
    }
    message = client.chat.completions.create(**options).choices[0].message
    (call,) = message.tool_calls
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    streamed = [
        part.function.arguments
        for chunk in client.chat.completions.create(**options, stream=True)
        for part in chunk.choices[0].delta.tool_calls or []
    ]
    assert "".join(streamed) == call.function.arguments


def test_refused_by_keyword(client: openai.OpenAI) -> None:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
    }
    with pytest.raises(openai.UnprocessableEntityError, match="uniqueItems"):
        client.chat.completions.create(model="tgi", messages=ASK, response_format=wanted)


def test_a_limit_may_cut(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="tgi", messages=ASK, response_format={"type": "json_object"}, max_tokens=2
    )
    assert found.choices[0].finish_reason == "length"
