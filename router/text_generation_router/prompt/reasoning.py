"""Reasoning in a model's answer: what stands between two marks at its beginning.

Read incrementally, like tool calls: splitting the text differently never changes what comes out,
only when. White space around the marks belongs to the format.
"""

import enum
from dataclasses import dataclass

from text_generation_router.prompt.held_text import uncertain_length


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The marks around reasoning; tokenizers may have them as special tokens."""

    opens: str
    closes: str
    # A text that tells a template of this kind; the mark that closes, if there is none.
    known_by: str = ""

    def is_opened_by(self, prompt: str) -> bool:
        """Whether the answer to a prompt begins inside reasoning."""
        return prompt.rstrip().endswith(self.opens)

    def is_closed_by(self, prompt: str) -> bool:
        """Whether the prompt ends with reasoning, so that the answer has none (some templates tell
        a model in this way not to reason).
        """
        return prompt.rstrip().endswith(self.closes)


# gpt-oss's: a message among others, which `harmony.py` reads.
HARMONY = ReasoningFormat(
    "<|channel|>analysis<|message|>", "<|end|>", known_by="<|channel|>analysis"
)
# In the order in which templates are asked.
KNOWN_FORMATS = (
    HARMONY,
    ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
    ReasoningFormat("<seed:think>", "</seed:think>"),
    ReasoningFormat("<reasoning>", "</reasoning>"),
    ReasoningFormat("Here is my thought process:", "Here is my response:"),
    ReasoningFormat("<think>", "</think>"),
)


@dataclass(slots=True)
class SplitText:
    """A piece of the answer, told apart."""

    reasoning: str = ""
    text: str = ""


def reasoning_of(template: str) -> ReasoningFormat | None:
    """How the model marks its reasoning, as its chat template tells; None if it does not."""
    known = (known for known in KNOWN_FORMATS if (known.known_by or known.closes) in template)
    return next(known, None)


class _State(enum.Enum):
    START = enum.auto()
    REASONING = enum.auto()
    ANSWER = enum.auto()


class ReasoningParser:
    """Feed it the answer piece by piece, then `finish` it.

    Many templates open the reasoning themselves: then `is_open`. An answer that does not begin with
    the mark is no reasoning; one that ends inside is all reasoning.
    """

    def __init__(self, marks: ReasoningFormat, *, is_open: bool) -> None:
        self._marks = marks
        self._state = _State.REASONING if is_open else _State.START
        self._held = ""
        # White space after a mark is still to be skipped.
        self._skips_space = is_open
        self._num_pieces = 0
        # Pieces up to the one in which the reasoning ended.
        self._num_reasoned = 0

    @property
    def num_reasoned(self) -> int:
        """How many of the pieces had a part in the reasoning so far, with its marks."""
        return self._num_pieces if self._state is _State.REASONING else self._num_reasoned

    def feed(self, text: str) -> SplitText:
        """What became certain with this text."""
        self._num_pieces += 1
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
        if begun.startswith(self._marks.opens):
            self._state = _State.REASONING
            self._held = begun[len(self._marks.opens) :]
            self._skips_space = True
            return True
        if self._marks.opens.startswith(begun):
            return False
        self._state = _State.ANSWER
        return True

    def _reason(self, split: SplitText) -> bool:
        before, found, after = self._held.partition(self._marks.closes)
        if found:
            split.reasoning += before.rstrip()
            self._num_reasoned = self._num_pieces
            self._state = _State.ANSWER
            self._held = after
            self._skips_space = True
            return True
        certain = len(self._held) - uncertain_length(self._held, self._marks.closes)
        split.reasoning += self._held[:certain]
        self._held = self._held[certain:]
        return False
