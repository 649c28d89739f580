"""Compiles grammars off the event loop, to know before a request is accepted that the shards can
enforce them. They are tried out in a process of their own: see `checker.py`.
"""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor

from text_generation_router.grammar.checker_process import CheckerPool
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.marks import PLAIN_MARKS, MarkSpelling
from text_generation_router.grammar.source import GrammarSource, serialised

_NUM_CHECKERS = 2
_MAX_REMEMBERED = 256
_MAX_SERIALISED_CHARACTERS = 262_144


class GrammarCompiler:
    """Owner of the checkers and of what is known of earlier grammars. `close` is safe twice.

    refusal: why no grammar can be enforced at all; empty if they can. marks: how marks are spelled
    for this model's tokenizer.
    """

    def __init__(self, refusal: str = "", marks: MarkSpelling = PLAIN_MARKS) -> None:
        self.refusal = refusal
        self._marks = marks
        self._checkers = CheckerPool(_NUM_CHECKERS)
        self._threads = ThreadPoolExecutor(_NUM_CHECKERS, thread_name_prefix="grammar")
        self._fault = functools.lru_cache(_MAX_REMEMBERED)(self._checkers.find_fault)

    async def compile(self, source: GrammarSource) -> str:
        """The grammar for a `GenerationRequest`; `GrammarError` if it cannot be enforced."""
        if self.refusal:
            raise GrammarError(self.refusal)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._compile, source)

    def close(self) -> None:
        """End the checkers; what they still compile is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._checkers.close()

    def _compile(self, source: GrammarSource) -> str:
        text = serialised(source.grammars(self._marks))
        if len(text) > _MAX_SERIALISED_CHARACTERS:
            raise GrammarError(
                f"the grammar has {len(text)} characters; at most {_MAX_SERIALISED_CHARACTERS} "
                "are allowed"
            )
        added = next((added for added in self._marks.added_texts if added in text), None)
        if added is not None:
            raise GrammarError(f"the text {added!r} is a token of the model's own")
        fault = self._fault(serialised(source.grammars(PLAIN_MARKS)))
        if fault:
            raise GrammarError(fault)
        return text
