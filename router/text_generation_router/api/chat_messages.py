"""Messages and tools of a chat request, in the form in which templates expect them: content is a
string, a call's arguments are an object.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from text_generation_router.api.chat_types import (
    ContentPart,
    FunctionDefinition,
    Message,
    MessageToolCall,
)
from text_generation_router.api.custom_tools import arguments_of
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.limits import refuse_set
from text_generation_router.api.tool_choice import parameters_schema


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """One dict per message, with the keys that the client set; a result of a tool also has the name
    of the function, which some templates show and OpenAI's clients do not send.
    """
    names: dict[str, str] = {}
    shown: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        fields = _message(message, f"messages[{i}]")
        for call in fields.get("tool_calls", ()):
            names[call.get("id", "")] = call["function"]["name"]
        name = names.get(fields.get("tool_call_id", ""))
        if message.role == "tool" and name is not None:
            fields.setdefault("name", name)
        shown.append(fields)
    return shown


def template_tools(functions: Sequence[FunctionDefinition]) -> list[dict[str, Any]]:
    """OpenAI's shape: type, and function with name, description and parameters (a JSON Schema)."""
    shown: list[dict[str, Any]] = []
    for definition in functions:
        function: dict[str, Any] = {"name": definition.name}
        if definition.description is not None:
            function["description"] = definition.description
        function["parameters"] = parameters_schema(definition)
        shown.append({"type": "function", "function": function})
    return shown


def _message(message: Message, place: str) -> dict[str, Any]:
    refuse_set(message, ("audio", "function_call", "refusal"), place)
    if message.content is None and not message.tool_calls:
        raise ValidationError(f"`{place}.content` is missing", param=f"{place}.content")
    shown: dict[str, Any] = {
        "role": message.role,
        "content": _content(message.content, f"{place}.content"),
    }
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            shown[name] = value
    if message.reasoning is not None:
        shown.setdefault("reasoning_content", message.reasoning)
    if message.tool_calls:
        shown["tool_calls"] = [
            _tool_call(call, f"{place}.tool_calls[{i}]")
            for i, call in enumerate(message.tool_calls)
        ]
    return shown


def _content(content: str | list[ContentPart] | None, place: str) -> str:
    """Text as it is; parts are joined without a separator."""
    if not isinstance(content, list):
        return content or ""
    texts: list[str] = []
    for i, part in enumerate(content):
        if part.type != "text":
            raise ValidationError(
                f"`{place}[{i}]` is of type {part.type!r}: this model reads text only",
                param=place,
            )
        if part.text is None:
            raise ValidationError(f"`{place}[{i}].text` is missing", param=place)
        texts.append(part.text)
    return "".join(texts)


def _tool_call(call: MessageToolCall, place: str) -> dict[str, Any]:
    """As the call of a function; that is what a custom tool is to the model."""
    if call.custom is not None:
        kind, name, arguments = "function", call.custom.name, arguments_of(call.custom.input)
    elif call.function is None:
        raise ValidationError(f"`{place}.function` is missing", param=f"{place}.function")
    else:
        kind, name, arguments = call.type, call.function.name, call.function.arguments
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    shown: dict[str, Any] = {
        "type": kind,
        "function": {"name": name, "arguments": {} if arguments is None else arguments},
    }
    if call.id is not None:
        shown["id"] = str(call.id)
    return shown


def _parsed(arguments: str) -> Any:
    """Templates write objects; what is no JSON is shown as the model wrote it."""
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, UnicodeError):
        return arguments
