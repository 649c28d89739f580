"""How a chat template wants earlier tool calls to be shown to it.

Templates differ: most write a call's arguments as an object, some as the text of one; to some a
message that only calls has no content, to others an empty one; some insist on the form of an id.
Which it is, rendering a call tells.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What a template expects in a message with `tool_calls`."""

    arguments_are_text: bool = False
    # null in place of an empty text.
    content_is_null: bool = False
    # The length of an id; 0 for any.
    id_length: int = 0

    def styled(self, messages: Messages) -> list[Mapping[str, Any]]:
        """The messages as the template expects them; those without calls are left as they are."""
        return [self._styled(message) for message in messages]

    def _styled(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.id_length and "tool_call_id" in message:
            message = {**message, "tool_call_id": self._id(message["tool_call_id"])}
        calls = message.get("tool_calls")
        if not calls:
            return message
        styled = {**message, "tool_calls": [self._call(call) for call in calls]}
        if self.content_is_null and not message["content"]:
            styled["content"] = None
        return styled

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        styled = dict(call)
        if "id" in call:
            styled["id"] = self._id(call["id"])
        arguments = call["function"]["arguments"]
        if self.arguments_are_text and not isinstance(arguments, str):
            text = msgspec.json.encode(arguments).decode()
            styled["function"] = {**call["function"], "arguments": text}
        return styled

    def _id(self, call_id: str) -> str:
        """The id, or one that stands for it where it has another form."""
        if not self.id_length or (len(call_id) == self.id_length and call_id.isalnum()):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[: self.id_length]


_KEY = "an_argument"
_CALL = {
    "type": "function",
    "id": "000000000",
    "function": {"name": "a_function", "arguments": {_KEY: "a value"}},
}
# Tools, and a conversation, that any template for tools should be able to show.
PROBE_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "a_function",
            "description": "a function",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)
_PROBE: Messages = (
    {"role": "user", "content": "a question"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "an answer", "name": "a_function", "tool_call_id": "000000000"},
)


def call_style_of(render: Callable[[Messages], str | None], id_length: int) -> CallStyle:
    """The style in which a template shows a call as JSON; the usual one if it does in none.

    render: the prompt for a conversation, None if the template refuses it.
    """
    for arguments_are_text in (False, True):
        for content_is_null in (False, True):
            style = CallStyle(arguments_are_text, content_is_null, id_length)
            prompt = render(style.styled(_PROBE))
            if prompt is not None and _is_shown(prompt):
                return style
    return CallStyle(id_length=id_length)


def _is_shown(prompt: str) -> bool:
    """Whether the call's arguments are there, as neither Python's text nor a string in JSON."""
    return _KEY in prompt and f"'{_KEY}'" not in prompt and f'\\"{_KEY}' not in prompt
