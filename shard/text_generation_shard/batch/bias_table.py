"""The logit biases of all slots, where a recorded step on the CPU finds them."""

from collections.abc import Sequence

import torch

from text_generation_shard.sampling.rows import BiasLists

# Tokens of one slot. What asks for more is sampled outside of recordings.
_CAPACITY = 1024


class BiasTable:
    """Owns the lists. Memory that no bias needed was never touched."""

    def __init__(self, num_slots: int) -> None:
        self.lists = BiasLists(
            token_ids=torch.empty(num_slots, _CAPACITY, dtype=torch.int32),
            values=torch.empty(num_slots, _CAPACITY),
            counts=torch.zeros(num_slots, dtype=torch.int64),
        )

    @staticmethod
    def holds(bias: Sequence[tuple[int, float]]) -> bool:
        """Whether there is room for a slot's bias: pairs of a token id and what it gets."""
        return len(bias) <= _CAPACITY

    def set(self, slot: int, bias: Sequence[tuple[int, float]]) -> None:
        """Store a slot's bias, if there is room; nothing is added otherwise."""
        count = len(bias) if self.holds(bias) else 0
        if count:
            token_ids, values = zip(*bias, strict=True)
            self.lists.token_ids[slot, :count] = torch.tensor(token_ids, dtype=torch.int32)
            self.lists.values[slot, :count] = torch.tensor(values, dtype=torch.float32)
        self.lists.counts[slot] = count
