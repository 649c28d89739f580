"""What OpenAI's client parses: answers into pydantic's models, calls of functions and of custom
tools, whole and streamed. The demo model is weak, its grammar holds.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

MESSAGES: Any = [{"role": "user", "content": "Hello, who are you?"}]
WORD = "[a-z]{3,6}"


class Person(BaseModel):
    """Short enough for a model that finds no end."""

    name: Annotated[str, Field(max_length=12)]
    age: Annotated[int, Field(ge=0, le=150)]
    kind: Literal["a", "b"]
    note: Annotated[str, Field(max_length=5)] | None


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


def test_a_chat_is_parsed(client: openai.OpenAI) -> None:
    options: Any = {"model": "tgi", "messages": MESSAGES, "max_tokens": 200, "temperature": 0}
    whole = client.chat.completions.parse(response_format=Person, **options)
    parsed = whole.choices[0].message.parsed
    assert isinstance(parsed, Person)
    with client.chat.completions.stream(response_format=Person, **options) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_a_response_is_parsed(client: openai.OpenAI) -> None:
    options: Any = {"model": "tgi", "input": "Hello", "max_output_tokens": 200, "temperature": 0}
    parsed = client.responses.parse(text_format=Person, **options).output_parsed
    assert isinstance(parsed, Person)
    with client.responses.stream(text_format=Person, **options) as stream:
        assert stream.get_final_response().output_parsed == parsed


def test_arguments_are_parsed(client: openai.OpenAI) -> None:
    options: Any = {
        "model": "tgi",
        "messages": MESSAGES,
        "tools": [openai.pydantic_function_tool(Person, name="save")],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "temperature": 0,
    }
    (call,) = client.chat.completions.parse(**options).choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Person)
    with client.chat.completions.stream(**options) as stream:
        message = stream.get_final_completion().choices[0].message
    (streamed,) = message.tool_calls or []
    assert streamed.function.parsed_arguments == call.function.parsed_arguments


def test_the_input_of_a_custom_tool_follows_its_format(client: openai.OpenAI) -> None:
    grammar = {"syntax": "regex", "definition": WORD}
    tool: Any = {
        "type": "custom",
        "custom": {"name": "say", "format": {"type": "grammar", "grammar": grammar}},
    }
    answer = client.chat.completions.create(
        model="tgi",
        messages=MESSAGES,
        tools=[tool],
        tool_choice={"type": "custom", "custom": {"name": "say"}},
        max_tokens=60,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "custom"
    assert re.fullmatch(WORD, call.custom.input)
    flat: Any = {"type": "custom", "name": "say", "format": {"type": "grammar", **grammar}}
    response = client.responses.create(
        model="tgi", input="Hello", tools=[flat], tool_choice="required", max_output_tokens=60
    )
    inputs = [item.input for item in response.output if item.type == "custom_tool_call"]
    assert inputs
    assert all(re.fullmatch(WORD, text) for text in inputs[:1])
