"""Matchers: where each sequence stands in its grammar, beside a lexer that it shares with others.

llguidance builds the states of a lexer as texts reach them. A copy of a matcher has a place of its
own and the lexer of what it was copied from, behind a lock. So sequences with the same grammar,
at once or one after the other, find the states that another built:

    grammar ─▶ unused matcher, kept ──copy──▶ matcher of a sequence ──▶ place
                      └────── lexer ◀──────────────┘

States count towards a limit, which the texts of all who share the lexer use up together. That must
not fail a sequence which alone would not have reached it: whatever fails beside a shared lexer is
compiled anew, with a lexer of its own, and replays its tokens. Only what fails then has failed.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# A lexer state takes 1 to 2 kB. The router compiles with tighter limits than these, so what it
# accepted compiles here; a text that leads further than this fails its own sequence.
_MAX_LEXER_STATES = 50_000
# Of a lexer that may outlive its sequences; and how many of them do, those used last. Most have
# some hundred states, in half a megabyte.
_MAX_SHARED_LEXER_STATES = 10_000
_MAX_KEPT = 16


@dataclass(slots=True, eq=False)
class _SharedLexer:
    """The lexer of a grammar, in a matcher that consumes nothing: it is there to be copied."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    matcher: "LLMatcher | None" = None


@dataclass(slots=True, eq=False)
class SequenceMatcher:
    """One sequence, its tokens so far, and the matcher that consumed them."""

    grammar: str
    token_ids: list[int]
    matcher: "LLMatcher"
    # None once the lexer is the sequence's own.
    shared: _SharedLexer | None

    def error(self) -> str:
        """Why the matcher goes no further, in one line; empty if it does."""
        return " ".join(self.matcher.get_error().split()) if self.matcher.is_error() else ""


class MatcherPool:
    """Owns the kept lexers, those used last. To be called from any thread."""

    def __init__(self, tokenizer: "LLTokenizer") -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _SharedLexer] = OrderedDict()

    def begin(self, grammar: str, token_ids: Sequence[int]) -> SequenceMatcher:
        """A matcher that consumed the tokens; compiles unless the grammar's lexer is kept."""
        shared = self._shared_lexer(grammar)
        with shared.lock:
            if shared.matcher is None:
                shared.matcher = self._compile(grammar, _MAX_SHARED_LEXER_STATES)
            matcher = shared.matcher.deep_copy()
        _replay(matcher, token_ids)
        sequence = SequenceMatcher(grammar, list(token_ids), matcher, shared)
        if matcher.is_error():
            self.separate(sequence)
        return sequence

    def separate(self, sequence: SequenceMatcher) -> None:
        """Give the sequence a lexer of its own; the shared one, which failed, is kept no longer."""
        if sequence.shared is None:
            return
        with self._lock:
            if self._kept.get(sequence.grammar) is sequence.shared:
                del self._kept[sequence.grammar]
        sequence.shared = None
        sequence.matcher = self._compile(sequence.grammar, _MAX_LEXER_STATES)
        _replay(sequence.matcher, sequence.token_ids)

    def _shared_lexer(self, grammar: str) -> _SharedLexer:
        with self._lock:
            shared = self._kept.setdefault(grammar, _SharedLexer())
            self._kept.move_to_end(grammar)
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
            return shared

    def _compile(self, grammar: str, max_lexer_states: int) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=max_lexer_states, verbose_errors=False)
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)


def _replay(matcher: "LLMatcher", token_ids: Sequence[int]) -> None:
    """One by one: after the end, only single ends are taken."""
    for token_id in token_ids:
        matcher.consume_token(token_id)
