"""Tool calls in a model's answer, in the format of Hermes and Qwen:

    some text
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

One incremental parser reads streamed and unstreamed answers, so both give the same calls. Splitting
the text differently never changes what comes out, only when.
"""

import enum
from dataclasses import dataclass

import msgspec

TOOL_CALL_OPEN = "<tool_call>"
TOOL_CALL_CLOSE = "</tool_call>"
# Texts that some tokenizers have as special tokens and that the parser needs to see.
TOOL_CALL_MARKS = frozenset({TOOL_CALL_OPEN, TOOL_CALL_CLOSE})


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer that is no tool call."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One whole call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


AnswerPart = AnswerText | ToolCall


class _State(enum.Enum):
    TEXT = enum.auto()
    CALL = enum.auto()


class ToolCallParser:
    """Feed it the answer piece by piece, then `finish` it.

    White space before a call belongs to the format, not to the text. What looks like a call and is
    none (no JSON, no name) comes out as the text that it was, so nothing of an answer is lost.
    With `max_calls`, later calls are left out: the client asked for no more.
    """

    def __init__(self, max_calls: int | None = None) -> None:
        self._state = _State.TEXT
        self._held = ""
        # White space before the call that is being read.
        self._space = ""
        self._num_calls = 0
        self._max_calls = max_calls

    @property
    def num_calls(self) -> int:
        """Calls that were found so far."""
        return self._num_calls

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that became certain with this text."""
        self._held += text
        parts: list[AnswerPart] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self) -> list[AnswerPart]:
        """What was held back, at the end of the answer."""
        parts: list[AnswerPart] = []
        held, self._held = self._held, ""
        if self._state is _State.CALL:
            # A model may end its turn without closing the last call.
            self._emit_call(held, closed=False, parts=parts)
        elif held and not (self._num_calls and held.isspace()):
            parts.append(AnswerText(held))
        self._state = _State.TEXT
        return parts

    def _advance(self, parts: list[AnswerPart]) -> bool:
        """Take one step through the held text; False when more of it is needed."""
        mark = TOOL_CALL_OPEN if self._state is _State.TEXT else TOOL_CALL_CLOSE
        before, found, after = self._held.partition(mark)
        if self._state is _State.CALL:
            if not found:
                return False
            self._emit_call(before, closed=True, parts=parts)
            self._state = _State.TEXT
            self._held = after
            return True
        if found:
            text = before.rstrip()
            self._emit_text(text, parts)
            self._space = before[len(text) :]
            self._state = _State.CALL
            self._held = after
            return True
        certain = len(self._held) - _uncertain_length(self._held)
        self._emit_text(self._held[:certain], parts)
        self._held = self._held[certain:]
        return False

    def _emit_text(self, text: str, parts: list[AnswerPart]) -> None:
        if text:
            parts.append(AnswerText(text))

    def _emit_call(self, body: str, *, closed: bool, parts: list[AnswerPart]) -> None:
        call = _parse_call(body)
        if call is None:
            parts.append(
                AnswerText(
                    self._space + TOOL_CALL_OPEN + body + (TOOL_CALL_CLOSE if closed else "")
                )
            )
            return
        self._num_calls += 1
        if self._max_calls is None or self._num_calls <= self._max_calls:
            parts.append(call)


def _uncertain_length(text: str) -> int:
    """How much of the end may still turn out to belong to a call: white space, and the beginning of
    a mark after it.
    """
    start = len(text)
    for size in range(min(len(TOOL_CALL_OPEN) - 1, len(text)), 0, -1):
        if TOOL_CALL_OPEN.startswith(text[-size:]):
            start -= size
            break
    return len(text) - len(text[:start].rstrip())


class _WrittenCall(msgspec.Struct):
    """What stands between the marks; some models say `parameters` for `arguments`."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()


def _parse_call(body: str) -> ToolCall | None:
    try:
        call = msgspec.json.decode(body.strip(), type=_WrittenCall)
        arguments = _arguments_text(bytes(call.arguments) or bytes(call.parameters))
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if not call.name or arguments is None:
        return None
    return ToolCall(call.name, arguments)


def _arguments_text(written: bytes) -> str | None:
    """The text of a JSON object as the model wrote it; None if it is something else."""
    if written in (b"", b"null"):
        return "{}"
    text = written.decode()
    if text.startswith('"'):
        # An object in a string, as OpenAI's API shows it.
        text = msgspec.json.decode(text, type=str)
    return text if text.startswith("{") else None
