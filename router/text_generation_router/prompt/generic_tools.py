"""Tools for models whose chat template knows none: the prompt tells them what TGI's does.

    the last message
    ---
    [{"type": "function", "function": {...}}]
    how to call one of them

Earlier calls and their results become messages of the roles that every template knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

DEFAULT_INSTRUCTION = (
    "To use one of these functions, answer with nothing but a JSON object that has its name and "
    'its arguments: {"name": "the_function", "parameters": {"an_argument": "its value"}}. '
    "Otherwise answer in plain text."
)

Messages = Sequence[Mapping[str, Any]]


def with_instruction(
    messages: Messages, tools: Sequence[Mapping[str, Any]] | None, instruction: str
) -> Messages:
    """The messages with tools and how to use them at the end of the last one."""
    if not messages:
        return messages
    shown = [] if tools is None else [msgspec.json.encode(tools).decode()]
    last = messages[-1]
    content = "\n".join([str(last["content"]), "---", *shown, instruction])
    return [*messages[:-1], {**last, "content": content}]


def without_tool_roles(messages: Messages) -> Messages:
    """Calls as text of the assistant, results as text of the user; neighbours of one role become
    one message, for templates that insist on turns.
    """
    plain: list[Mapping[str, Any]] = []
    for message, changed in _plain(messages):
        last = plain[-1] if plain else None
        if changed and last is not None and last["role"] == message["role"]:
            plain[-1] = {**last, "content": f"{last['content']}\n{message['content']}"}
        else:
            plain.append(message)
    return plain


def _plain(messages: Messages) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Every message without tools, and whether it may join one before it of the same role."""
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            name = message.get("name", "the function")
            content = f"Result of {name}: {message['content']}"
            yield {"role": "user", "content": content}, True
        elif message.get("tool_calls"):
            calls = "; ".join(_call_text(call) for call in message["tool_calls"])
            content = "\n".join(filter(None, [message["content"], calls]))
            yield {"role": message["role"], "content": content}, False
        else:
            yield message, after_result
        after_result = is_result


def _call_text(call: Mapping[str, Any]) -> str:
    """As the model is told to write it."""
    function = call["function"]
    written = {"name": function["name"], "parameters": function["arguments"]}
    return msgspec.json.format(msgspec.json.encode(written), indent=0).decode()
