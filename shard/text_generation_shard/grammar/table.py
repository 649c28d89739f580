"""The matchers of all slots that have a grammar, and the masks of their next tokens.

A mask depends on the token before it, which is known on the host as soon as a step has sampled. So
it is computed at once, in threads of its own, whose walks do not hold the interpreter, while
results are written and the next step's forward pass runs; sampling waits only for what is not done
then, or, in a recorded step, the step itself (`runner/awaited_masks.py`).

    compute thread   admit ────────────────▶ masks ─▶ sample ─▶ advance ─────▶ masks ─▶ ...
                       │                       ▲                   │              ▲
    worker             └─ compile, replay, mask┘                   └ consume, mask┘

From `admit` or `advance` until its future is done a matcher and its row of masks belong to the
worker, otherwise to the compute thread. What matchers share has a lock (`matchers.py`).
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
from torch import Tensor

from text_generation_shard.grammar.matchers import MatcherPool, SequenceMatcher
from text_generation_shard.grammar.tokenizer import GrammarTokenizer
from text_generation_shard.sampling.rows import GrammarMask

if TYPE_CHECKING:
    from llguidance import LLExecutor

_NUM_COMPILERS = 2
# Threads that walk the vocabulary for the rows of one step: many short walks, beside the model's
# own threads. They look for work for a while before they sleep.
_MAX_WALKERS = 4


@dataclass(frozen=True, slots=True)
class _Workers:
    """Threads that write masks."""

    matchers: MatcherPool
    compilers: ThreadPoolExecutor
    advancer: ThreadPoolExecutor
    # None where one thread is all that there is for them: then the advancer walks itself.
    walkers: "LLExecutor | None"


@dataclass(slots=True)
class _SlotGrammar:
    """The grammar of one slot."""

    slot: int
    # Done when the mask of the next token stands in the slot's row, or `error` says why not.
    ready: "Future[None] | None" = None
    sequence: SequenceMatcher | None = None
    error: str = ""


class GrammarTable:
    """Owns the matchers. All calls come from the compute thread."""

    def __init__(self, tokenizer: GrammarTokenizer, num_slots: int) -> None:
        self._tokenizer = tokenizer
        self._masks: np.ndarray[tuple[int, int], np.dtype[np.int32]] | None = None
        if tokenizer.tokenizer is not None:
            # Memory that no grammar needed was never touched.
            words = -(-tokenizer.tokenizer.vocab_size // 32)
            self._masks = np.zeros((num_slots, words), dtype=np.int32)
        self._slots: dict[int, _SlotGrammar] = {}
        # Work on slots that were given up meanwhile: it may still write their rows.
        self._leaving: dict[int, Future[None]] = {}

    @functools.cached_property
    def _workers(self) -> _Workers:
        """Made for the first grammar."""
        from llguidance import LLExecutor

        tokenizer = self._tokenizer.tokenizer
        assert tokenizer is not None
        num_walkers = _num_walkers()
        return _Workers(
            matchers=MatcherPool(tokenizer),
            compilers=ThreadPoolExecutor(_NUM_COMPILERS, thread_name_prefix="grammar-compiler"),
            advancer=ThreadPoolExecutor(1, thread_name_prefix="grammar"),
            walkers=LLExecutor(num_walkers) if num_walkers > 1 else None,
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
            state = self._slots[admission.slot] = _SlotGrammar(admission.slot)
            if self._tokenizer.tokenizer is None:
                state.error = f"grammars cannot be enforced: {self._tokenizer.error}"
                continue
            num_prompt_tokens = len(admission.token_ids) - admission.num_emitted
            state.ready = self._workers.compilers.submit(
                self._compile,
                state,
                admission.grammar,
                list(admission.token_ids[num_prompt_tokens:]),
                self._leaving.pop(admission.slot, None),
            )

    def has_any(self, slots: Iterable[int]) -> bool:
        """Whether one of the slots has a grammar."""
        return bool(self._slots) and any(slot in self._slots for slot in slots)

    def rows(self, slots: Sequence[int]) -> tuple[int, ...]:
        """The rows i whose slots[i] has a grammar, on any rank; ascending."""
        if not self._slots:
            return ()
        return tuple(row for row, slot in enumerate(slots) if slot in self._slots)

    @property
    def allowed(self) -> Tensor | None:
        """The masks of all slots, int32 [num_slots, ceil(vocab / 32)], each to be read when
        `masked` says that it is there; None where no grammar can be enforced.
        """
        return None if self._masks is None else torch.from_numpy(self._masks)

    def masked(self, slots: Sequence[int]) -> dict[int, "Future[None]"]:
        """The rows i that may be masked, ascending, and what is done when the mask of slots[i] is
        written, or `failures` tells why there is none.
        """
        if not self._slots:
            return {}
        states = ((row, self._slots.get(slot)) for row, slot in enumerate(slots))
        return {
            row: state.ready
            for row, state in states
            if state is not None and state.ready is not None and not state.error
        }

    def masks(self, slots: Sequence[int]) -> GrammarMask | None:
        """The tokens that row i, which samples for slots[i], may choose from; waits for them.

        None if no row has a grammar. Rows whose grammar failed have no mask: see `failures`.
        """
        if not self._slots:
            return None
        rows = [row for row, slot in enumerate(slots) if self._is_masked(slot)]
        if not rows:
            return None
        assert self._masks is not None
        allowed = self._masks[[slots[row] for row in rows]]
        return GrammarMask(tuple(rows), torch.from_numpy(allowed))

    def failures(self, slots: Iterable[int]) -> list[pb.SequenceFailure]:
        """Those among the slots whose grammar failed. To be asked when their masks, which
        `masks` waits for, are there."""
        if not self._slots:
            return []
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
        ready = self._workers.advancer.submit(self._advance, states, token_ids)
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
        state: _SlotGrammar,
        grammar: str,
        emitted: list[int],
        leaving: "Future[None] | None",
    ) -> None:
        """On a compiler thread: from a grammar to the mask of the next token."""
        state.sequence = self._workers.matchers.begin(grammar, emitted)
        if leaving is not None:
            wait([leaving])
        self._walk([state])

    def _advance(
        self, states: dict[int, _SlotGrammar], token_ids: Callable[[], Sequence[int]]
    ) -> None:
        """On the advancer's thread: one token further in the slots of some rows."""
        from llguidance.numpy import consume_token_par

        sampled = token_ids()
        pairs = []
        for row, state in states.items():
            sequence = _sequence(state)
            sequence.token_ids.append(sampled[row])
            pairs.append((sequence.matcher, sampled[row]))
        walkers = self._walkers_for(list(states.values()))
        if walkers is None:
            for matcher, token_id in pairs:
                matcher.consume_token(token_id)
        else:
            consume_token_par(walkers, pairs)
        self._walk(list(states.values()))

    def _walk(self, states: list[_SlotGrammar]) -> None:
        """Write the masks of the next tokens. A matcher that failed would allow the end: it is told
        by its error alone.
        """
        self._fill(states)
        failed = [state for state in states if _sequence(state).matcher.is_error()]
        if not failed:
            return
        for state in failed:
            self._workers.matchers.separate(_sequence(state))
        self._fill(failed)
        for state in failed:
            if error := _sequence(state).error():
                state.error = f"the grammar failed: {error}"

    def _fill(self, states: list[_SlotGrammar]) -> None:
        from llguidance.numpy import fill_next_token_bitmask_par

        assert self._masks is not None
        pairs = [(_sequence(state).matcher, state.slot) for state in states]
        walkers = self._walkers_for(states)
        if walkers is not None:
            fill_next_token_bitmask_par(walkers, pairs, self._masks)
            return
        first, num_bytes = self._masks.ctypes.data, self._masks.strides[0]
        for matcher, slot in pairs:
            matcher.unsafe_compute_mask_ptr(first + slot * num_bytes, num_bytes)

    def _walkers_for(self, states: list[_SlotGrammar]) -> "LLExecutor | None":
        """The threads that walk for some rows beside each other, where that saves time: handing
        rows to a single one takes as long as their walks, and threads whose rows share a lexer wait
        for each other.
        """
        if self._workers.walkers is None:
            return None
        lexers = {_sequence(state).shared for state in states}
        is_one = len(lexers) == 1 and None not in lexers
        return None if is_one else self._workers.walkers


def _num_walkers() -> int:
    """At most a thread for every second core: the others compute."""
    return max(1, min(_MAX_WALKERS, len(os.sched_getaffinity(0)) // 2))


def _sequence(state: _SlotGrammar) -> SequenceMatcher:
    assert state.sequence is not None
    return state.sequence
