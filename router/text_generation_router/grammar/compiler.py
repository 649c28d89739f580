"""Compiles grammars off the event loop, to know before a request is accepted that the shards can
enforce them.

The check runs on a vocabulary of single bytes: what a grammar allows does not depend on how the
model's tokens cut the text. It is bounded by counted work, not by time, so that the same grammar is
always judged alike; the shards' own bounds are wider.
"""

import asyncio
import functools
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.source import GrammarSource

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

_NUM_THREADS = 2
_MAX_REMEMBERED = 256
_MAX_SERIALISED_CHARACTERS = 262_144
# Characters of llguidance's reasons that a client is told.
_MAX_REASON_CHARACTERS = 400
_END = 256


class GrammarCompiler:
    """Owner of the threads and of what is known of earlier grammars. `close` is safe twice.

    refusal: why no grammar can be enforced at all; empty if they can. added_texts: texts that
    always are one token of the model, which llguidance keeps apart from all other text.
    """

    def __init__(self, refusal: str = "", added_texts: Collection[str] = ()) -> None:
        self._refusal = refusal
        self._added_texts = tuple(added_texts)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._fault = functools.lru_cache(_MAX_REMEMBERED)(self._find_fault)

    async def compile(self, source: GrammarSource) -> str:
        """The grammar for a `GenerationRequest`; `GrammarError` if it cannot be enforced."""
        if self._refusal:
            raise GrammarError(self._refusal)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._compile, source)

    def close(self) -> None:
        """End the threads; what they still compile is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, source: GrammarSource) -> str:
        text = source.serialised()
        if len(text) > _MAX_SERIALISED_CHARACTERS:
            raise GrammarError(
                f"the grammar has {len(text)} characters; at most {_MAX_SERIALISED_CHARACTERS} "
                "are allowed"
            )
        added = next((added for added in self._added_texts if added in text), None)
        if added is not None:
            raise GrammarError(f"the text {added!r} is a token of the model's own")
        fault = self._fault(source.serialised(is_probe=True))
        if fault:
            raise GrammarError(fault)
        return text

    def _find_fault(self, grammar: str) -> str:
        """Why a grammar cannot be enforced; empty if it can."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            # Some faults show when the first token is looked for: nothing matches, or too much may.
            matcher.compute_bitmask()
        if not matcher.is_error():
            return ""
        reason = " ".join(matcher.get_error().split())
        return reason[:_MAX_REASON_CHARACTERS]

    @functools.cached_property
    def _tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])

    @functools.cached_property
    def _limits(self) -> "LLParserLimits":
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
