"""The masks of grammars as a step recorded on the CPU takes them: it waits for them itself.

compute thread   tell, replay:  layers ......... wait, sampler │ (no line of Python between)
grammar thread                  consume, masks ──▶ gate
"""

from collections.abc import Sequence
from concurrent.futures import Future

import torch

from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.ops.cpu import library
from text_generation_shard.sampling.rows import MaskPlaces


class AwaitedMasks:
    """Tells a replay which rows have masks, and lets it go on when these are there."""

    def __init__(self, grammars: GrammarTable, max_rows: int) -> None:
        self._grammars = grammars
        self._gate = library.gate()
        self._places = torch.full((max_rows,), -1)
        self._pending: set[Future[None]] = set()

    def wait(self, num_rows: int) -> MaskPlaces | None:
        """To be recorded: wait for the masks of a step of so many rows; where they are then. None
        where there will never be a grammar.
        """
        if self._grammars.allowed is None:
            return None
        self._gate.wait()
        return MaskPlaces(self._grammars.allowed, self._places[:num_rows])

    def tell(self, slots: Sequence[int]) -> None:
        """Before a replay whose row i samples for slots[i]."""
        masked = self._grammars.masked(slots)
        places = self._places.numpy()
        places.fill(-1)
        places[list(masked)] = [slots[row] for row in masked]
        self._pending = set(masked.values())
        step = self._gate.expect(len(self._pending))
        for ready in self._pending:
            ready.add_done_callback(lambda _: self._gate.arrive(step))

    def check(self) -> None:
        """After a replay: raise what kept a mask from being written."""
        for ready in self._pending:
            ready.result()
        self._pending = set()
