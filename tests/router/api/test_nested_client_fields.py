"""What lies inside the fields of `openai`'s and `anthropic`'s requests (messages and their parts,
calls, tools, formats, options): each is honoured, refused by name, or cannot change an answer. Of
the kinds that a part may have, all but those listed are refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import anthropic.types as messages
import openai.types.responses as responses
import pytest
from openai.types import chat
from openai.types.chat import completion_create_params as chat_request
from openai.types.responses import response_create_params as response_request

from tests.fakes.router_app import running_app
from tests.router.api.client_parts import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Body,
    Part,
    answered,
    assistant,
    chat_body,
    messages_body,
    responses_body,
)
from tests.router.api.client_parts import (
    PARTS as CLIENT_PARTS,
)
from tests.router.api.custom_tool_parts import CUSTOM_TOOL_PARTS

PARTS = [*CLIENT_PARTS, *CUSTOM_TOOL_PARTS]
# Unions by where they stand, and the kinds that are taken.
KINDS: dict[str, tuple[str, Any, Callable[[Body], Body], set[str]]] = {
    "chat content": (
        CHAT,
        chat.ChatCompletionContentPartParam | chat.ChatCompletionContentPartRefusalParam,
        lambda part: chat_body({"role": "user", "content": [part]}),
        {"text"},
    ),
    "chat calls": (
        CHAT,
        chat.ChatCompletionMessageToolCallUnionParam,
        lambda part: chat_body({"role": "assistant", "tool_calls": [part]}),
        {"function", "custom"},
    ),
    "chat tools": (
        CHAT,
        chat.ChatCompletionToolUnionParam,
        lambda part: chat_body(tools=[part]),
        {"function", "custom"},
    ),
    "chat tool_choice": (
        CHAT,
        chat.ChatCompletionToolChoiceOptionParam,
        lambda part: chat_body(tool_choice=part, tools=[{"function": {"name": "f"}}]),
        {"function", "custom", "allowed_tools"},
    ),
    "chat response_format": (
        CHAT,
        chat_request.ResponseFormat,
        lambda part: chat_body(response_format=part),
        {"text", "json_object", "json_schema"},
    ),
    "responses input": (
        RESPONSES,
        responses.ResponseInputItemParam,
        responses_body,
        {
            "message",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
            "reasoning",
        },
    ),
    "responses content": (
        RESPONSES,
        responses.ResponseInputContentParam,
        lambda part: responses_body({"role": "user", "content": [part]}),
        {"input_text"},
    ),
    "responses tools": (
        RESPONSES,
        responses.ToolParam,
        lambda part: responses_body(tools=[part]),
        {"function", "custom"},
    ),
    "responses tool_choice": (
        RESPONSES,
        response_request.ToolChoice,
        lambda part: responses_body(tool_choice=part, tools=[{"type": "function", "name": "f"}]),
        {"function", "custom", "allowed_tools"},
    ),
    "messages blocks": (
        MESSAGES,
        messages.ContentBlockParam,
        assistant,
        {"text", "thinking", "redacted_thinking", "tool_use"},
    ),
    "messages answers": (
        MESSAGES,
        messages.ContentBlockParam,
        answered,
        {"text", "tool_result"},
    ),
    "messages tools": (
        MESSAGES,
        messages.ToolUnionParam,
        lambda part: messages_body(tools=[part]),
        {"custom"},
    ),
}


def typed_dicts(union: Any) -> Iterator[Any]:
    """The members of a union that are objects."""
    if hasattr(union, "__required_keys__"):
        yield union
    for member in get_args(union):
        yield from typed_dicts(member)


def kinds_of(union: Any) -> set[str]:
    """The values of `type` in the members of a union."""
    found: set[str] = set()
    for member in typed_dicts(union):
        hint = get_type_hints(member).get("type")
        literals = [hint] if get_origin(hint) is Literal else get_args(hint)
        found |= {kind for literal in literals for kind in get_args(literal)}
    return found


def identity(part: Part) -> str:
    return f"{part.path} {getattr(part.typed, '__name__', 'MessageParam')} {part.least}"


@pytest.mark.parametrize("part", PARTS, ids=identity)
def test_no_field_is_unaccounted_for(part: Part) -> None:
    known = set[str]()
    for typed in typed_dicts(part.typed):
        known |= typed.__required_keys__ | typed.__optional_keys__
    assert sorted(known) == sorted([*part.honoured, *part.harmless, *part.refused])


async def test_refused_fields_are_named() -> None:
    async with running_app() as app:
        for part in PARTS:
            for name, value in part.refused.items():
                body = part.put({**part.least, name: value})
                async with app.session.post(part.path, json=body) as response:
                    text = await response.text()
                assert response.status in (400, 422), (part.typed, name, text)
                assert f"{name}`" in text, (part.typed, name, text)
        assert not app.engine.generations


async def test_harmless_fields_change_nothing() -> None:
    async with running_app() as app:
        for part in PARTS:
            for extra in ({}, part.harmless):
                body = part.put({**part.least, **extra})
                async with app.session.post(part.path, json=body) as response:
                    assert response.status == 200, (part.typed, extra, await response.text())
        requests = [
            replace(each.request, sampling=replace(each.request.sampling, seed=0))
            for each in app.engine.generations
        ]
        assert requests[::2] == requests[1::2]


@pytest.mark.parametrize("place", KINDS)
async def test_other_kinds_are_refused(place: str) -> None:
    path, union, put, taken = KINDS[place]
    kinds = kinds_of(union)
    assert taken <= kinds
    async with running_app() as app:
        for kind in kinds - taken:
            body = put({"type": kind, "name": "f"})
            async with app.session.post(path, json=body) as response:
                text = await response.text()
            assert response.status in (400, 422), (kind, text)
            assert kind in text or "type" in text or "missing" in text, (kind, text)
        assert not app.engine.generations
