"""Reasoning in a model's answer: what stands between `<think>` and `</think>` at its beginning.

Read incrementally, like tool calls: splitting the text differently never changes what comes out,
only when. White space around the marks belongs to the format.
"""

import enum
from dataclasses import dataclass

_OPEN = "<think>"
_CLOSE = "</think>"
# Texts that some tokenizers have as special tokens and that the parser needs to see.
REASONING_MARKS = frozenset({_OPEN, _CLOSE})


@dataclass(slots=True)
class SplitText:
    """A piece of the answer, told apart."""

    reasoning: str = ""
    text: str = ""


def writes_reasoning(template: str) -> bool:
    """Whether a chat template's source tells that the model thinks between marks."""
    return _CLOSE in template


class _State(enum.Enum):
    START = enum.auto()
    REASONING = enum.auto()
    ANSWER = enum.auto()


class ReasoningParser:
    """Feed it the answer piece by piece, then `finish` it.

    Many templates open the reasoning themselves, so `prompt` says where the answer begins. An
    answer that does not begin with the mark is no reasoning; one that ends inside is all reasoning.
    """

    def __init__(self, prompt: str) -> None:
        is_open = prompt.rstrip().endswith(_OPEN)
        self._state = _State.REASONING if is_open else _State.START
        self._held = ""
        # White space after a mark is still to be skipped.
        self._skips_space = is_open

    def feed(self, text: str) -> SplitText:
        """What became certain with this text."""
        self._held += text
        split = SplitText()
        while self._advance(split):
            pass
        return split

    def finish(self) -> SplitText:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, ""
        if self._state is _State.REASONING:
            return SplitText(reasoning=held)
        return SplitText(text=held)

    def _advance(self, split: SplitText) -> bool:
        """Take one step through the held text; False when more of it is needed."""
        if self._skips_space:
            self._held = self._held.lstrip()
            if not self._held:
                return False
            self._skips_space = False
        if self._state is _State.START:
            return self._begin()
        if self._state is _State.ANSWER:
            split.text += self._held
            self._held = ""
            return False
        return self._reason(split)

    def _begin(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(_OPEN):
            self._state = _State.REASONING
            self._held = begun[len(_OPEN) :]
            self._skips_space = True
            return True
        if _OPEN.startswith(begun):
            return False
        self._state = _State.ANSWER
        return True

    def _reason(self, split: SplitText) -> bool:
        before, found, after = self._held.partition(_CLOSE)
        if found:
            split.reasoning += before.rstrip()
            self._state = _State.ANSWER
            self._held = after
            self._skips_space = True
            return True
        certain = len(self._held) - _uncertain_length(self._held)
        split.reasoning += self._held[:certain]
        self._held = self._held[certain:]
        return False


def _uncertain_length(text: str) -> int:
    """How much of the end may belong to the closing mark: its beginning, and white space before."""
    start = len(text)
    for size in range(min(len(_CLOSE) - 1, len(text)), 0, -1):
        if _CLOSE.startswith(text[-size:]):
            start -= size
            break
    return len(text) - len(text[:start].rstrip())
