"""Reads one tool call from a text that may still grow."""

import re
from collections.abc import Iterable, Mapping
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
_STRING = r'"(?:[^"\\]|\\.)*+"'
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
# The beginning of an object up to the first member that is an object itself; its key is a group.
_HEAD = re.compile(
    rf"\{{\s*(?:{_STRING}\s*:\s*(?:{_STRING}|[-+.\w]++)\s*,\s*)*+({_STRING})\s*:\s*(?=\{{)",
    re.DOTALL,
)
# A longer one is none: it is looked for again whenever the text grows.
_MAX_HEAD = 1024


class NeedMoreError(Exception):
    """The text ends where a call may go on."""


class NoCallError(Exception):
    """What stands here is no call."""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call: the first has the name, and the arguments of all together are one text.

    That text is a JSON object, unless the model wrote something else where one had begun.
    """

    name: str = ""
    arguments: str = ""
    # Whether the arguments are whole; an answer may end before.
    is_last: bool = False

    def with_more(self, more: "CallPiece") -> "CallPiece":
        """This and the next piece of the same call as one."""
        return CallPiece(self.name, self.arguments + more.arguments, is_last=more.is_last)


def whole_calls(pieces: Iterable[CallPiece]) -> list[CallPiece]:
    """Each call in one piece."""
    calls: list[CallPiece] = []
    for piece in pieces:
        calls.append(piece if piece.name else calls.pop().with_more(piece))
    return calls


class CallReader:
    """Walks along a text that begins with what may be a call.

    Every method moves `at` behind what it read, or raises and leaves `at` anywhere. A longer text
    with the same beginning never changes what was read. functions: the parameters' JSON Schemas by
    name, of the functions that the model was shown. needs_arguments: a bare body has to have some.
    """

    def __init__(
        self,
        wanted: ToolFormat,
        functions: Mapping[str, Mapping[str, Any]],
        *,
        needs_arguments: bool = False,
    ) -> None:
        self._format = wanted
        self._functions = functions
        self._needs_arguments = needs_arguments
        # Of the object that was not whole when it was last read, where it starts and how much of
        # the text was looked at.
        self._extent = JsonExtent()
        self._extent_start = -1
        self._seen = 0
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
        self._extent_start = -1

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

    def body(self) -> CallPiece:
        """A call without the marks around it: all of it or, where the arguments are an object that
        needs no conversion, its name, with `at` before the arguments.
        """
        body = self._format.body
        if isinstance(body, ObjectBody):
            return self._object(body)
        if isinstance(body, NamedBody):
            return self._named(body)
        return self._tagged(body)

    def bare_body(self, body: ObjectBody) -> CallPiece:
        """A call that no mark announces: only an object with the keys and a name that fit is one.

        Known as none as soon as it begins differently.
        """
        self.marks(("{", f'"{body.name_key}"', ":"))
        self._skip_space()
        if (name := _WHOLE_STRING.match(self.text, self.at)) and not self._is_known(name[0]):
            raise NoCallError
        self.at = 0
        call = self._object(body, needs_arguments=self._needs_arguments)
        if call.name not in self._functions:
            raise NoCallError
        return call

    def _is_known(self, written: str) -> bool:
        try:
            return msgspec.json.decode(written, type=str) in self._functions
        except (msgspec.MsgspecError, UnicodeError):
            return False

    def rest_of_object(self) -> None:
        """What follows the arguments in an `ObjectBody`."""
        self._skip_space()
        start = self.at
        if self._is_next("}"):
            self.at += 1
            return
        self.marks((",",))
        extent = JsonExtent()
        extent.end("{")
        end = extent.end(self.text[start:])
        if end is None:
            raise self._more()
        self.at = start + end
        try:
            members = '{"":0' + self.text[start : self.at]
            msgspec.json.decode(members, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise NoCallError from error

    def _object(self, body: ObjectBody, *, needs_arguments: bool = False) -> CallPiece:
        begun = self._head_of_object(body)
        if begun is not None:
            return begun
        try:
            members = msgspec.json.decode(self._value(), type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(members.get(body.name_key, b""), type=str)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise NoCallError from error
        keys = argument_keys(body)
        written = next((bytes(members[key]) for key in keys if key in members), b"")
        if needs_arguments and not written:
            raise NoCallError
        return _whole_call(name, written)

    def _head_of_object(self, body: ObjectBody) -> CallPiece | None:
        """The name, if it stands before arguments that begin as an object."""
        self._skip_space()
        found = _HEAD.match(self.text, self.at, self.at + _MAX_HEAD)
        if found is None:
            return None
        try:
            key = msgspec.json.decode(found[1], type=str)
            members = msgspec.json.decode(found[0] + "{}}", type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(members.get(body.name_key, b""), type=str)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        if not name or key not in argument_keys(body):
            return None
        self.at = found.end()
        return CallPiece(name)

    def _named(self, body: NamedBody) -> CallPiece:
        name = self._name()
        if body.id_mark and self._is_next(body.id_mark):
            self.marks((body.id_mark,))
            self._name()
        self.marks((*body.between, "{"))
        self.at -= 1
        return CallPiece(name)

    def _tagged(self, body: TaggedBody) -> CallPiece:
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
        return CallPiece(name, msgspec.json.encode(arguments).decode(), is_last=True)

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
        if self._extent_start != start:
            self._extent, self._extent_start, self._seen = JsonExtent(), start, start
        seen, self._seen = self._seen, len(self.text)
        end = self._extent.end(self.text[seen:])
        if end is None:
            raise self._more()
        self.forget()
        self.at = seen + end
        return self.text[start : self.at]

    def _more(self) -> Exception:
        return NoCallError() if self._is_whole else NeedMoreError()

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()


def argument_keys(body: ObjectBody) -> tuple[str, ...]:
    """The key as the model knows it, and those that models of other kinds use."""
    return (body.arguments_key, "arguments", "parameters")


def _whole_call(name: str, written: bytes) -> CallPiece:
    """The call, with its arguments as the model wrote them."""
    try:
        arguments = _arguments_text(written)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise NoCallError from error
    if not name:
        raise NoCallError
    return CallPiece(name, arguments, is_last=True)


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
