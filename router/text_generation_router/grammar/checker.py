"""The process that tries grammars out, so that one which takes too much takes it from nobody else.

It reads one grammar per line of standard input, a JSON string, and answers each with one line, why
it cannot be enforced, or an empty string. The system ends it when a grammar takes more than its
share of processor time or memory; the router takes that as the answer and starts another
(`checker_process.py`).

The check runs on a vocabulary of single bytes: what a grammar allows does not depend on how the
model's tokens cut the text. Counted work bounds what is not absurd, so that it is always judged
alike, and more tightly than the shards do.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

# For one grammar, of which the largest that clients send take tens of milliseconds.
MAX_SECONDS = 1.5
# For the whole process; what it has loaded takes a quarter of that.
MAX_BYTES = 2**30
# Characters of llguidance's reasons that a client is told.
_MAX_REASON_CHARACTERS = 400
_END = 256


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whoever stops the router from a terminal ends its input, and so this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer, limits = _byte_tokenizer(), _limits()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            fault = find_fault(json.loads(line), tokenizer, limits)
        except MemoryError:
            os.abort()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(fault) + "\n")
        sys.stdout.flush()


def find_fault(grammar: str, tokenizer: "LLTokenizer", limits: "LLParserLimits") -> str:
    """Why a grammar cannot be enforced; empty if it can."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        # Some faults show when the first token is looked for: nothing matches, or too much may.
        matcher.compute_bitmask()
    if not matcher.is_error():
        return ""
    return " ".join(matcher.get_error().split())[:_MAX_REASON_CHARACTERS]


def _byte_tokenizer() -> "LLTokenizer":
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_items_in_row=1000,
        max_lexer_states=10_000,
        max_grammar_size=50_000,
        verbose_errors=False,
    )


class _Bytes:
    """A vocabulary of all bytes and an end, in the form that llguidance asks for."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids: Sequence[int] = (_END,)
    tokens: Sequence[bytes] = (*(bytes([i]) for i in range(256)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


if __name__ == "__main__":
    main()
