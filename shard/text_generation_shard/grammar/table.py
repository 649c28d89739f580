"""The matchers of all slots that have a grammar, and the masks of their next tokens.

A mask depends on the token before it, which is known on the host as soon as a step has sampled. So
it is computed at once, in threads that do not hold the interpreter, while results are written and
the next step's forward pass runs; sampling waits only for what is not done then.

    compute thread   admit ────────────────▶ masks ─▶ sample ─▶ advance ─────▶ masks ─▶ ...
                       │                       ▲                   │              ▲
    worker             └─ compile, replay, mask┘                   └ consume, mask┘

From `admit` or `advance` until its future is done a matcher and its row of masks belong to the
worker, otherwise to the compute thread.
"""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.grammar.tokenizer import GrammarTokenizer
from text_generation_shard.sampling.rows import GrammarMask

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

_NUM_COMPILERS = 2
# Threads that walk the vocabulary for the rows of one step: many short walks, beside the model's
# own threads. They look for work for a while before they sleep.
_MAX_WALKERS = 4
# A lexer state takes 1 to 2 kB. The router compiles with tighter limits than these, so what it
# accepted compiles here; a text that leads further than this fails its own sequence.
_MAX_LEXER_STATES = 50_000


@dataclass(frozen=True, slots=True)
class _Workers:
    """Threads, and the masks that they write: int32 [num_slots, ceil(vocab / 32)]."""

    tokenizer: "LLTokenizer"
    compilers: ThreadPoolExecutor
    advancer: ThreadPoolExecutor
    walkers: "LLExecutor"
    masks: "np.ndarray[tuple[int, int], np.dtype[np.int32]]"


@dataclass(slots=True)
class _SlotGrammar:
    """The grammar of one slot."""

    # Done when the mask of the next token stands in the slot's row, or `error` says why not.
    ready: "Future[None] | None" = None
    matcher: "LLMatcher | None" = None
    error: str = ""


class GrammarTable:
    """Owns the matchers. All calls come from the compute thread."""

    def __init__(self, tokenizer: GrammarTokenizer, num_slots: int) -> None:
        self._tokenizer = tokenizer
        self._num_slots = num_slots
        self._slots: dict[int, _SlotGrammar] = {}
        # Work on slots that were given up meanwhile: it may still write their rows.
        self._leaving: dict[int, Future[None]] = {}

    @functools.cached_property
    def _workers(self) -> _Workers:
        """Made for the first grammar."""
        from llguidance import LLExecutor

        tokenizer = self._tokenizer.tokenizer
        assert tokenizer is not None
        return _Workers(
            tokenizer=tokenizer,
            compilers=ThreadPoolExecutor(_NUM_COMPILERS, thread_name_prefix="grammar-compiler"),
            advancer=ThreadPoolExecutor(1, thread_name_prefix="grammar"),
            walkers=LLExecutor(_num_walkers()),
            masks=np.zeros((self._num_slots, -(-tokenizer.vocab_size // 32)), dtype=np.int32),
        )

    def retire(self, slots: Iterable[int]) -> None:
        """Forget the grammars of slots; those without one are none of ours."""
        for slot in slots:
            state = self._slots.pop(slot, None)
            if state is not None and state.ready is not None and not state.ready.done():
                self._leaving[slot] = state.ready

    def retire_all(self) -> None:
        """Forget every grammar."""
        self.retire(list(self._slots))

    def admit(self, admissions: Iterable[pb.Admission]) -> None:
        """Begin to compile the grammars among these, and to replay what was emitted."""
        for admission in admissions:
            if not admission.grammar:
                continue
            state = self._slots[admission.slot] = _SlotGrammar()
            if self._tokenizer.tokenizer is None:
                state.error = f"grammars cannot be enforced: {self._tokenizer.error}"
                continue
            num_prompt_tokens = len(admission.token_ids) - admission.num_emitted
            state.ready = self._workers.compilers.submit(
                self._compile,
                admission.slot,
                state,
                admission.grammar,
                list(admission.token_ids[num_prompt_tokens:]),
                self._leaving.pop(admission.slot, None),
            )

    def has_any(self, slots: Iterable[int]) -> bool:
        """Whether one of the slots has a grammar."""
        return bool(self._slots) and any(slot in self._slots for slot in slots)

    def masks(self, slots: Sequence[int]) -> GrammarMask | None:
        """The tokens that row i, which samples for slots[i], may choose from; waits for them.

        None if no row has a grammar. Rows whose grammar failed have no mask: see `failures`.
        """
        if not self._slots:
            return None
        rows = [row for row, slot in enumerate(slots) if self._is_masked(slot)]
        if not rows:
            return None
        allowed = self._workers.masks[[slots[row] for row in rows]]
        return GrammarMask(tuple(rows), torch.from_numpy(allowed))

    def failures(self, slots: Iterable[int]) -> list[pb.SequenceFailure]:
        """Those among the slots whose grammar failed. To be asked after `masks`."""
        return [
            pb.SequenceFailure(slot=slot, message=self._slots[slot].error)
            for slot in slots
            if slot in self._slots and self._slots[slot].error
        ]

    def advance(self, slots: Sequence[int], token_ids: Callable[[], Sequence[int]]) -> None:
        """A token was sampled for each slot: begin to compute what may follow.

        token_ids: called on the worker's thread, where it may wait until the device has them.
        """
        states = {
            row: state
            for row, slot in enumerate(slots)
            if (state := self._slots.get(slot)) is not None and not state.error
        }
        if not states:
            return
        ready = self._workers.advancer.submit(self._advance, states, slots, token_ids)
        for state in states.values():
            state.ready = ready

    def _is_masked(self, slot: int) -> bool:
        """Whether the slot has a grammar and a mask; waits until that is known."""
        state = self._slots.get(slot)
        if state is None:
            return False
        if state.ready is not None:
            state.ready.result()
        return not state.error

    def _compile(
        self,
        slot: int,
        state: _SlotGrammar,
        grammar: str,
        emitted: list[int],
        leaving: "Future[None] | None",
    ) -> None:
        """On a compiler thread: from a grammar to the mask of the next token."""
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._workers.tokenizer, grammar, log_level=0, limits=limits)
        if emitted:
            matcher.consume_tokens(emitted)
        state.matcher = matcher
        if leaving is not None:
            wait([leaving])
        self._fill({slot: state})

    def _advance(
        self,
        states: dict[int, _SlotGrammar],
        slots: Sequence[int],
        token_ids: Callable[[], Sequence[int]],
    ) -> None:
        """On the advancer's thread: one token further in the slots of some rows."""
        from llguidance.numpy import consume_token_par

        sampled = token_ids()
        pairs = [(_matcher(state), sampled[row]) for row, state in states.items()]
        consume_token_par(self._workers.walkers, pairs)
        self._fill({slots[row]: state for row, state in states.items()})

    def _fill(self, states: dict[int, _SlotGrammar]) -> None:
        """Write the masks of the next tokens. A matcher that failed would allow the end: it is told
        by its error alone.
        """
        from llguidance.numpy import fill_next_token_bitmask_par

        pairs = [(_matcher(state), slot) for slot, state in states.items()]
        fill_next_token_bitmask_par(self._workers.walkers, pairs, self._workers.masks)
        for state in states.values():
            matcher = _matcher(state)
            if matcher.is_error():
                state.error = f"the grammar failed: {' '.join(matcher.get_error().split())}"


def _num_walkers() -> int:
    """At most a thread for every second core: the others compute."""
    return max(1, min(_MAX_WALKERS, len(os.sched_getaffinity(0)) // 2))


def _matcher(state: _SlotGrammar) -> "LLMatcher":
    assert state.matcher is not None
    return state.matcher
