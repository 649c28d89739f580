"""Reads one tool call from a text that may still grow."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from text_generation_router.prompt.json_extent import JsonExtent
from text_generation_router.prompt.tool_formats import (
    Marks,
    NamedBody,
    ObjectBody,
    TaggedBody,
    ToolFormat,
)

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r'[^\s<>\[\]{}"=]+')


class NeedMoreError(Exception):
    """The text ends where a call may go on."""


class NoCallError(Exception):
    """What stands here is no call."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One whole call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CallReader:
    """Walks along a text that begins with what may be a call.

    Every method moves `at` behind what it read, or raises and leaves `at` anywhere. A longer text
    with the same beginning never changes what was read. functions: the parameters' JSON Schemas by
    name, of the functions that the model was shown.
    """

    def __init__(self, wanted: ToolFormat, functions: Mapping[str, Mapping[str, Any]]) -> None:
        self._format = wanted
        self._functions = functions
        self._extent: JsonExtent | None = None
        self._is_whole = False
        self.text = ""
        self.at = 0

    def start(self, text: str, *, is_whole: bool) -> None:
        """Read from the beginning of a text; a whole one will not grow: more cannot be needed."""
        self.text = text
        self.at = 0
        self._is_whole = is_whole

    def forget(self) -> None:
        """The next text is not the last one grown, but another."""
        self._extent = None

    def marks(self, marks: Marks) -> None:
        """All of some marks, with any white space between them."""
        for mark in marks:
            if mark.isspace():
                continue
            self._skip_space()
            if self.text.startswith(mark, self.at):
                self.at += len(mark)
            elif mark.startswith(self.text[self.at : self.at + len(mark)]):
                raise self._more()
            else:
                raise NoCallError

    def body(self) -> ToolCall:
        """A call without the marks around it."""
        body = self._format.body
        if isinstance(body, ObjectBody):
            return self._object(body)
        if isinstance(body, NamedBody):
            return self._named(body)
        return self._tagged(body)

    def bare_body(self, body: ObjectBody) -> ToolCall:
        """A call that no mark announces: only an object with the keys and a name that fit is one.

        Known as none as soon as it begins differently.
        """
        self.marks(("{", f'"{body.name_key}"', ":"))
        self.at = 0
        call = self._object(body)
        if call.name not in self._functions:
            raise NoCallError
        return call

    def _object(self, body: ObjectBody) -> ToolCall:
        try:
            members = msgspec.json.decode(self._value(), type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(members.get(body.name_key, b""), type=str)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise NoCallError from error
        keys = (body.arguments_key, "arguments", "parameters")
        written = next((bytes(members[key]) for key in keys if key in members), b"")
        return _call(name, written)

    def _named(self, body: NamedBody) -> ToolCall:
        name = self._name()
        if body.id_mark and self._is_next(body.id_mark):
            self.marks((body.id_mark,))
            self._name()
        self.marks(body.between)
        return _call(name, self._value().encode())

    def _tagged(self, body: TaggedBody) -> ToolCall:
        name = self._name()
        self.marks((body.name_closes,))
        schema = self._functions.get(name, {}).get("properties", {})
        arguments: dict[str, Any] = {}
        while self._is_next(body.argument_opens):
            self.marks((body.argument_opens,))
            argument = self._name()
            self.marks((body.name_closes,))
            end = self.text.find(body.argument_closes, self.at)
            if end < 0:
                raise self._more()
            written = self.text[self.at : end].removeprefix("\n").removesuffix("\n")
            arguments[argument] = _tagged_value(written, schema.get(argument))
            self.at = end + len(body.argument_closes)
        self.marks((body.closes,))
        return ToolCall(name, msgspec.json.encode(arguments).decode())

    def _is_next(self, mark: str) -> bool:
        self._skip_space()
        seen = self.text[self.at : self.at + len(mark)]
        if mark != seen and mark.startswith(seen):
            raise self._more()
        return mark == seen

    def _name(self) -> str:
        self._skip_space()
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise self._more() if self.at == len(self.text) else NoCallError
        self.at = found.end()
        if self.at == len(self.text):
            raise self._more()
        return found[0]

    def _value(self) -> str:
        """The text of an object; only brackets and strings are sure to fit."""
        self.marks(("{",))
        start = self.at - 1
        if self._extent is None or self._extent.start != start:
            self._extent = JsonExtent(start)
        end = self._extent.end(self.text)
        if end is None:
            raise self._more()
        self.at = end
        return self.text[start:end]

    def _more(self) -> Exception:
        return NoCallError() if self._is_whole else NeedMoreError()

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()


def _call(name: str, written: bytes) -> ToolCall:
    """The call, with its arguments as the model wrote them."""
    try:
        arguments = _arguments_text(written)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise NoCallError from error
    if not name:
        raise NoCallError
    return ToolCall(name, arguments)


def _arguments_text(written: bytes) -> str:
    """The text of a JSON object."""
    if written in (b"", b"null"):
        return "{}"
    if written.startswith(b'"'):
        # An object in a string, as OpenAI's API shows it.
        written = msgspec.json.decode(written, type=str).encode()
    msgspec.json.decode(written, type=dict[str, Any])
    return written.decode()


def _tagged_value(written: str, schema: Any) -> Any:
    """A string is written as it is, all else as JSON; the schema tells which it should be."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return written
    try:
        return msgspec.json.decode(written)
    except (msgspec.MsgspecError, UnicodeError):
        return written
