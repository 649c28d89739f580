"""Tool calls in a model's answer, in any of the formats of `tool_formats.py`.

One incremental parser reads streamed and unstreamed answers, so both give the same calls. Splitting
the text differently never changes what comes out, only when.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from text_generation_router.prompt.call_reader import (
    CallPiece,
    CallReader,
    NeedMoreError,
    NoCallError,
)
from text_generation_router.prompt.held_text import uncertain_length
from text_generation_router.prompt.json_extent import JsonExtent
from text_generation_router.prompt.tool_formats import Marks, ObjectBody, ToolFormat


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer that is no tool call."""

    text: str


AnswerPart = AnswerText | CallPiece


class _State(enum.Enum):
    # Nothing of the answer was seen.
    START = enum.auto()
    TEXT = enum.auto()
    # The held text begins with the first mark.
    CALL = enum.auto()
    # The held text is the whole answer so far, and begins with a brace.
    BARE_CALL = enum.auto()
    # The held text begins or continues the arguments of a call.
    ARGUMENTS = enum.auto()
    # The held text follows the arguments, in the object that they are a member of.
    REST_OF_OBJECT = enum.auto()
    # The held text follows the body of a call.
    AFTER_CALL = enum.auto()


class ToolCallParser:
    """Feed it the answer piece by piece, then `finish` it.

    A call comes out in pieces: it begins with its name as soon as its arguments begin as an object,
    and these follow as they are written. Arguments that have to be converted come with the name, in
    one piece. What looks like a call and is none before it has begun (no JSON, no name) comes out
    as the text that it was; what was begun stays a call, whatever its arguments turn out to be. So
    nothing of an answer is lost. White space before a call belongs to the format, not to the text.
    Models forget marks, and may end without them. With `max_calls`, later calls are left out: the
    client asked for no more. functions: the parameters' JSON Schemas by name. needs_arguments: a
    bare object without any is no call.
    """

    def __init__(
        self,
        wanted: ToolFormat,
        functions: Mapping[str, Mapping[str, Any]],
        max_calls: int | None = None,
        *,
        needs_arguments: bool = False,
    ) -> None:
        self._format = wanted
        self._reader = CallReader(wanted, functions, needs_arguments=needs_arguments)
        self._extent = JsonExtent()
        self._state = _State.START if wanted.is_bare else _State.TEXT
        self._held = ""
        # White space before the call that is being read.
        self._space = ""
        self._is_whole = False
        self._num_calls = 0
        self._max_calls = max_calls

    @property
    def num_calls(self) -> int:
        """Calls that were found so far."""
        return self._num_calls

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that became certain with this text."""
        self._held += text
        return self._read()

    def finish(self) -> list[AnswerPart]:
        """What was held back, at the end of the answer."""
        self._is_whole = True
        parts = self._read()
        self._held = ""
        return parts

    def _read(self) -> list[AnswerPart]:
        parts: list[AnswerPart] = []
        while self._advance(parts):
            pass
        return parts

    def _advance(self, parts: list[AnswerPart]) -> bool:
        """Take one step through the held text; False when more of it is needed."""
        if self._state is _State.TEXT:
            return self._read_text(parts)
        if self._state is _State.START:
            return self._begin()
        if self._state is _State.ARGUMENTS:
            return self._read_arguments(parts)
        self._reader.start(self._held, is_whole=self._is_whole)
        try:
            if self._state is _State.AFTER_CALL:
                self._read_after(parts)
            elif self._state is _State.REST_OF_OBJECT:
                self._reader.rest_of_object()
                self._move_to(_State.AFTER_CALL)
            else:
                self._read_first(parts)
        except NeedMoreError:
            return False
        except NoCallError:
            self._give_up(parts)
        return True

    def _begin(self) -> bool:
        begun = self._held.lstrip()
        if not begun and not self._is_whole:
            return False
        if begun.startswith("{"):
            self._space = self._held[: -len(begun)]
            self._held = begun
            self._state = _State.BARE_CALL
        else:
            self._state = _State.TEXT
        return True

    def _read_text(self, parts: list[AnswerPart]) -> bool:
        mark = self._format.first_mark
        place = self._held.find(mark) if mark else -1
        if place >= 0:
            text = self._held[:place].rstrip()
            _emit_text(text, parts)
            self._space = self._held[len(text) : place]
            self._held = self._held[place:]
            self._state = _State.CALL
            return True
        certain = len(self._held)
        if not self._is_whole:
            certain -= uncertain_length(self._held, mark)
        elif self._num_calls and self._held.isspace():
            certain = 0
        _emit_text(self._held[:certain], parts)
        self._held = self._held[certain:]
        return False

    def _read_first(self, parts: list[AnswerPart]) -> None:
        """The first call after a text, or without one."""
        if self._state is _State.CALL:
            self._reader.marks((*self._format.opens, *self._format.call_opens))
            call = self._reader.body()
        else:
            assert isinstance(self._format.body, ObjectBody)
            call = self._reader.bare_body(self._format.body)
        self._emit_call(call, parts)

    def _read_arguments(self, parts: list[AnswerPart]) -> bool:
        """More of the arguments, up to the bracket that closes them."""
        end = self._extent.end(self._held)
        piece, self._held = self._held[:end], "" if end is None else self._held[end:]
        self._emit_piece(CallPiece(arguments=piece, is_last=end is not None), parts)
        if end is None:
            return False
        in_object = isinstance(self._format.body, ObjectBody)
        self._state = _State.REST_OF_OBJECT if in_object else _State.AFTER_CALL
        return True

    def _read_after(self, parts: list[AnswerPart]) -> None:
        """What may follow a call: its closing marks, then the next call, or the last mark."""
        reader, wanted = self._reader, self._format
        self._skip(wanted.call_closes)
        has_more = wanted.has_section or wanted.is_bare
        if not has_more or (wanted.closes and self._skip(wanted.closes)):
            self._move_to(_State.TEXT)
            return
        rest = reader.at
        try:
            reader.marks((*wanted.between, *wanted.call_opens))
            self._emit_call(reader.body(), parts)
        except NoCallError:
            reader.at = rest
            self._move_to(_State.TEXT)

    def _skip(self, marks: Marks) -> bool:
        """Go behind some marks if all of them are there."""
        before = self._reader.at
        try:
            self._reader.marks(marks)
        except NoCallError:
            self._reader.at = before
            return False
        return True

    def _emit_call(self, call: CallPiece, parts: list[AnswerPart]) -> None:
        """A call, whole or begun."""
        self._num_calls += 1
        self._emit_piece(call, parts)
        self._space = ""
        self._extent = JsonExtent()
        self._move_to(_State.AFTER_CALL if call.is_last else _State.ARGUMENTS)

    def _emit_piece(self, piece: CallPiece, parts: list[AnswerPart]) -> None:
        if self._max_calls is not None and self._num_calls > self._max_calls:
            return
        before = parts[-1] if parts else None
        if isinstance(before, CallPiece) and not piece.name:
            parts[-1] = before.with_more(piece)
        elif piece.name or piece.arguments:
            parts.append(piece)

    def _move_to(self, state: _State) -> None:
        self._held = self._held[self._reader.at :]
        self._reader.forget()
        self._state = state

    def _give_up(self, parts: list[AnswerPart]) -> None:
        """The held text is no call: its mark is text, and calls are looked for behind it."""
        mark = self._format.first_mark if self._state is _State.CALL else ""
        _emit_text(self._space + mark, parts)
        self._space = ""
        self._reader.at = len(mark)
        self._move_to(_State.TEXT)


def _emit_text(text: str, parts: list[AnswerPart]) -> None:
    if text:
        parts.append(AnswerText(text))
