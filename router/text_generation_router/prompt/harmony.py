"""gpt-oss's answers: messages, each in a channel and some to a function ("harmony" by OpenAI).

    <|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.

The header of a message, up to its `<|message|>`, tells what it is: `analysis` is reasoning, `final`
the answer, `commentary` what the model says before it calls a function, and the call itself where
there is a recipient, as in `commentary to=functions.clock <|constrain|>json`. The first header
begins in the prompt.
"""

import enum
import re
from collections.abc import Mapping
from typing import Any

from text_generation_router.prompt.reasoning import SplitText

CHANNEL, MESSAGE, START, END = "<|channel|>", "<|message|>", "<|start|>", "<|end|>"
# The role that the prompt begins the model's turn with.
ASSISTANT = "assistant"
# An end of a message for good: most are end tokens, by which a generation stops.
_STOPS = ("<|call|>", "<|return|>")
MARKS = frozenset({CHANNEL, MESSAGE, START, END, *_STOPS, "<|constrain|>"})
# What stands in front of a call's arguments, however the header spelled it.
_CALL_HEADER = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>"

_NO_ARGUMENTS = "{}"
# What is longer is no header.
_MAX_HEADER = 256
_ENDS = re.compile("|".join(map(re.escape, (START, END, *_STOPS))))
_CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w*)")
_FUNCTION = re.compile(r"\bto=functions\.([^\s<]+)")


class _State(enum.Enum):
    # The held text begins with a header, or a part of one.
    HEADER = enum.auto()
    REASONING = enum.auto()
    TEXT = enum.auto()
    # The arguments of a call.
    CALL = enum.auto()
    # A message has ended.
    BETWEEN = enum.auto()


class HarmonyParser:
    """Tells reasoning from text, as `ReasoningParser` does; calls become text of one spelling.

    That is the one of `tool_formats.HARMONY`, by which calls are then found. Without tools, what is
    written to a function is text like all else. Further messages of a kind begin with a blank line.
    What does not begin with a header is text.
    """

    def __init__(self, prompt: str, *, has_tools: bool) -> None:
        self._has_tools = has_tools
        self._state = _State.HEADER if opens_turn(prompt) else _State.TEXT
        self._held = ""
        # The kinds of messages that had some text, and whether this message had none yet.
        self._told: set[_State] = set()
        self._is_first = True
        # Of the message that is being read, with its header.
        self._num_pieces = 0
        self._num_reasoned = 0

    @property
    def num_reasoned(self) -> int:
        """How many of the pieces had a part in the reasoning so far, with its marks."""
        more = self._num_pieces if self._state is _State.REASONING else 0
        return self._num_reasoned + more

    def feed(self, text: str) -> SplitText:
        """What became certain with this text."""
        self._num_pieces += 1
        self._held += text
        split = SplitText()
        while self._advance(split):
            pass
        return split

    def finish(self) -> SplitText:
        """What was held back, at the end of the answer; a header that was cut is no part of it."""
        split = SplitText()
        if self._state in (_State.HEADER, _State.BETWEEN):
            if not self._held.startswith((CHANNEL, START)):
                split.text = self._held
        else:
            self._tell(self._held, split)
        self._held = ""
        return split

    def _advance(self, split: SplitText) -> bool:
        """Take one step through the held text; False when more of it is needed."""
        if self._state is _State.HEADER:
            return self._read_header(split)
        if self._state is _State.BETWEEN:
            return self._begin()
        found = _ENDS.search(self._held)
        if found is None:
            certain = len(self._held) - _uncertain_length(self._held)
            self._tell(self._held[:certain], split)
            self._held = self._held[certain:]
            return False
        self._tell(self._held[: found.start()], split)
        if self._state is _State.CALL and self._is_first:
            self._tell(_NO_ARGUMENTS, split)
        if self._state is _State.REASONING:
            self._num_reasoned += self._num_pieces
        self._num_pieces = 0
        # A message that was not ended ends where the next one starts.
        self._held = self._held[found.start() if found[0] == START else found.end() :]
        self._state = _State.BETWEEN
        return True

    def _begin(self) -> bool:
        if self._held.startswith(START):
            self._state = _State.HEADER
            return True
        if START.startswith(self._held):
            return False
        self._state = _State.TEXT
        return True

    def _read_header(self, split: SplitText) -> bool:
        beginnings = (CHANNEL, START, MESSAGE, " to=")
        if not self._held.startswith(beginnings):
            if any(beginning.startswith(self._held) for beginning in beginnings):
                return False
            self._state = _State.TEXT
            return True
        end = self._held.find(MESSAGE, 0, _MAX_HEADER)
        if end < 0 and len(self._held) < _MAX_HEADER:
            return False
        self._is_first = True
        if end < 0:
            # Past the mark that would be taken for the start of a header again.
            self._state = _State.TEXT
            self._tell(self._held[: len(START)], split)
            self._held = self._held[len(START) :]
            return True
        header, self._held = self._held[:end], self._held[end + len(MESSAGE) :]
        channel = _CHANNEL_NAME.search(header)
        function = _FUNCTION.search(header)
        if function is not None and self._has_tools:
            self._state = _State.CALL
            split.text += _CALL_HEADER.format(function[1])
        elif channel is not None and channel[1] == "analysis":
            self._state = _State.REASONING
        else:
            self._state = _State.TEXT
        return True

    def _tell(self, text: str, split: SplitText) -> None:
        if not text:
            return
        # The message's first text, and not the first message of its kind.
        if self._is_first and self._state in self._told and self._state is not _State.CALL:
            text = "\n\n" + text
        self._is_first = False
        self._told.add(self._state)
        if self._state is _State.REASONING:
            split.reasoning += text
        else:
            split.text += text


def opens_turn(prompt: str) -> bool:
    """Whether an answer to a prompt begins with a header: no message is to be continued."""
    return prompt.rstrip().endswith(START + ASSISTANT)


def with_thinking(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with calls as the templates know it: reasoning is `thinking`, or a content is."""
    reasoning = message.get("reasoning_content")
    if not reasoning or not message.get("tool_calls") or message.get("content"):
        return message
    return {**message, "thinking": reasoning}


def _uncertain_length(text: str) -> int:
    """How much of the end may be the beginning of a mark."""
    start = text.rfind("<")
    rest = text[start:] if start >= 0 else ""
    return len(rest) if rest and any(mark.startswith(rest) for mark in MARKS) else 0
