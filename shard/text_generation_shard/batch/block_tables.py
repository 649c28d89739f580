"""The block tables of all slots: which block of the cache holds which tokens of a sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from text_generation_shard.batch.upload import upload
from text_generation_shard.errors import ProtocolError
from text_generation_shard.kv_cache import SCRAP_BLOCK


class BlockTables:
    """Owns the tables, [num_slots, max_blocks] on the device, and their lengths on the host.

    tokens of a sequence   0 .. block_size - 1 | block_size .. 2 * block_size - 1 | ...
    block table row        block_ids[0]        | block_ids[1]                     | ...
    """

    def __init__(
        self,
        *,
        num_slots: int,
        max_blocks: int,
        num_blocks: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        """num_blocks: blocks of the cache, the scrap block, which is never an entry, included."""
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._device = device
        self._table = torch.zeros(num_slots, max_blocks, dtype=torch.int32, device=device)
        self._lengths = [0] * num_slots

    def clear(self, slot: int) -> None:
        """Forget a slot's blocks."""
        self._lengths[slot] = 0

    def append(self, slots: Sequence[int], counts: Sequence[int], block_ids: Sequence[int]) -> None:
        """Append the next counts[i] entries of block_ids to the table of slots[i]."""
        if sum(counts) != len(block_ids):
            raise ProtocolError(f"{len(block_ids)} new blocks for {sum(counts)} places")
        if not block_ids:
            return
        lowest, highest = min(block_ids), max(block_ids)
        if lowest <= SCRAP_BLOCK or highest >= self._num_blocks:
            raise ProtocolError(
                f"blocks {lowest} to {highest} were given, 1 to {self._num_blocks - 1} may be"
            )
        rows: list[int] = []
        columns: list[int] = []
        for slot, count in zip(slots, counts, strict=True):
            length = self._lengths[slot]
            if length + count > self._table.shape[1]:
                raise ProtocolError(f"slot {slot}: more blocks than a sequence can fill")
            self._lengths[slot] = length + count
            rows += [slot] * count
            columns += range(length, length + count)
        row, column, block = upload([rows, columns, list(block_ids)], self._device)
        self._table[row, column] = block.int()

    def holds(self, slot: int, num_tokens: int) -> bool:
        """Whether a slot has blocks for so many tokens."""
        return num_tokens <= self._lengths[slot] * self._block_size

    def rows(self, slots: Tensor) -> Tensor:
        """slots: int64 [requests]. Returns their tables, int32 [requests, max_blocks]."""
        return self._table[slots]

    def places(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where tokens go in the flattened cache; arguments and result int64 [tokens]."""
        blocks = self._table[slots, positions // self._block_size].long()
        return blocks * self._block_size + positions % self._block_size
