"""OpenAI's custom tools, whose input is a text: to the model they are functions of one argument.

    {"type": "custom", "custom": {"name": "run", "format": {"type": "text"}}}
    {"name": "run", "arguments": {"input": "print(1)"}}

A regular expression as the format is enforced as the pattern of that argument.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from text_generation_router.api.chat_types import CustomDefinition, FunctionDefinition
from text_generation_router.api.errors import ToolError
from text_generation_router.prompt.call_reader import CallPiece
from text_generation_router.prompt.tool_calls import AnswerPart

_ARGUMENT = "input"


def as_function(tool: CustomDefinition, place: str) -> FunctionDefinition:
    """The function that stands for it; `ToolError` for a format that cannot be enforced."""
    pattern = _pattern(tool.format, f"{place}.format")
    schema = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    return FunctionDefinition(
        name=tool.name,
        description=tool.description,
        parameters={
            "type": "object",
            "properties": {_ARGUMENT: schema},
            "required": [_ARGUMENT],
            "additionalProperties": False,
        },
        strict=pattern is not None or None,
    )


def arguments_of(text: str) -> dict[str, str]:
    """The arguments of the function that stands for a call with this input."""
    return {_ARGUMENT: text}


class CustomInputReader:
    """Makes the arguments of calls to custom tools the text that they stand for, as it comes."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        # Of the call that is open, if it is one of a custom tool.
        self._input: _InputText | None = None

    def read(self, parts: Sequence[AnswerPart], *, is_last: bool) -> Sequence[AnswerPart]:
        """The next parts of an answer; an answer may end within a call."""
        if not self._names:
            return parts
        read: list[AnswerPart] = []
        for part in parts:
            if isinstance(part, CallPiece) and self._is_custom(part):
                self._read_piece(part, read)
            else:
                read.append(part)
        if is_last and self._input is not None and (rest := self._input.finish()):
            read.append(CallPiece(arguments=rest))
        return read

    def _is_custom(self, piece: CallPiece) -> bool:
        if piece.name:
            self._input = _InputText() if piece.name in self._names else None
        return self._input is not None

    def _read_piece(self, piece: CallPiece, read: list[AnswerPart]) -> None:
        assert self._input is not None
        text = self._input.feed(piece.arguments)
        if piece.is_last:
            text += self._input.finish()
            self._input = None
        if piece.name or text or piece.is_last:
            read.append(CallPiece(piece.name, text, is_last=piece.is_last))


_HEAD = re.compile(rf'\s*\{{\s*"{_ARGUMENT}"\s*:\s*"')
_HEX = "[0-9a-fA-F]"
_HIGH, _LOW = rf"[dD][89abAB]{_HEX}{{2}}", rf"[dD][c-fC-F]{_HEX}{{2}}"
# What stands for itself, escapes, and characters beyond 16 bits as two of these.
_WHOLE = re.compile(
    r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]'
    rf"|\\u(?![dD][89a-fA-F]){_HEX}{{4}}|\\u{_HIGH}\\u{_LOW})++"
)
# The beginning of an escape.
_CUT = re.compile(rf"\\(?:u(?:{_HEX}{{0,3}}|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?)?)?")


class _InputText:
    """The text in a call's arguments, read while they are written. What is no such object comes out
    at the end, as it is.
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_begun = False
        self._is_closed = False

    def feed(self, arguments: str) -> str:
        """What became certain with these."""
        self._held += arguments
        if not self._is_begun:
            head = _HEAD.match(self._held)
            if head is None:
                return ""
            self._held = self._held[head.end() :]
            self._is_begun = True
        return self._decode()

    def finish(self) -> str:
        """What was held back, but for an escape that was cut."""
        return "" if self._is_begun else self._held

    def _decode(self) -> str:
        text = ""
        while self._held and not self._is_closed:
            if whole := _WHOLE.match(self._held):
                text += msgspec.json.decode(f'"{whole[0]}"', type=str)
                self._held = self._held[whole.end() :]
            elif self._held[0] == '"':
                self._is_closed = True
            elif _CUT.fullmatch(self._held):
                break
            else:
                # No JSON: it stands for itself.
                text += self._held[0]
                self._held = self._held[1:]
        return text


def _pattern(wanted: dict[str, Any] | None, place: str) -> str | None:
    """The regular expression that the whole input matches; None for any text."""
    kind = None if wanted is None else wanted.get("type")
    if wanted is None or kind == "text":
        return None
    # One level deeper in chat than in Responses.
    grammar = wanted.get("grammar", wanted)
    syntax = grammar.get("syntax") if isinstance(grammar, dict) else None
    definition = grammar.get("definition") if isinstance(grammar, dict) else None
    if kind != "grammar" or syntax not in ("regex", "lark") or not isinstance(definition, str):
        raise ToolError(
            f"`{place}` must be of type text, or of type grammar with a syntax (regex) and a "
            "definition",
            param="tools",
        )
    if syntax == "lark":
        raise ToolError(
            f"`{place}`: a grammar in Lark's syntax cannot be enforced within a call; a regular "
            "expression can",
            param="tools",
        )
    return f"^(?:{definition})$"
