"""OpenAI's custom tools, whose input is a text: to the model they are functions of one argument.

    {"type": "custom", "custom": {"name": "run", "format": {"type": "text"}}}
    {"name": "run", "arguments": {"input": "print(1)"}}

A regular expression as the format is enforced as the pattern of that argument.
"""

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
    """Makes the arguments of calls to custom tools the text that they stand for: such a call comes
    out in one piece.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._open: CallPiece | None = None

    def read(self, parts: Sequence[AnswerPart], *, is_last: bool) -> Sequence[AnswerPart]:
        """The next parts of an answer; an answer may end within a call."""
        if not self._names:
            return parts
        read: list[AnswerPart] = []
        for part in parts:
            if not isinstance(part, CallPiece) or not self._is_custom(part):
                read.append(part)
                continue
            self._open = part if self._open is None else self._open.with_more(part)
            if part.is_last:
                self._close(read)
        if is_last:
            self._close(read)
        return read

    def _is_custom(self, piece: CallPiece) -> bool:
        return piece.name in self._names if piece.name else self._open is not None

    def _close(self, read: list[AnswerPart]) -> None:
        call, self._open = self._open, None
        if call is not None:
            read.append(CallPiece(call.name, _input(call.arguments), is_last=call.is_last))


def _input(arguments: str) -> str:
    """The text in the arguments, also if they were cut; all of what is something else."""
    for written in (arguments, arguments + '"}'):
        try:
            found = msgspec.json.decode(written, type=dict[str, Any]).get(_ARGUMENT)
        except (msgspec.MsgspecError, UnicodeError):
            continue
        if isinstance(found, str):
            return found
    return arguments


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
