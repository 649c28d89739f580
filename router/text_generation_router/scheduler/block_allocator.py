"""Blocks of the KV cache, by number: who may write into which.

Order of effects: `allocate` takes ids from the free list, then sets their reference counts;
`release` lowers a count and leaves a block without references *kept* (neither free nor used) until
its caller either frees it (`free`) or hands it out again (`retain`). Nothing is undone on
failure: `allocate` checks before it changes anything.
"""

from collections import Counter
from collections.abc import Iterable

SCRAP_BLOCK = 0


class BlockAllocator:
    """Owns the free list and the reference counts of blocks 1..num_blocks-1.

    Block 0 is the scrap block of padding rows; it is never handed out.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks must be at least 2 (one is scrap), got {num_blocks}")
        self.num_blocks = num_blocks
        # A stack: the block freed last is handed out first, while it may still be in some cache.
        self._free = list(range(num_blocks - 1, SCRAP_BLOCK, -1))
        self._num_references = [0] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` free blocks, with one reference each; the caller has checked `num_free`."""
        assert count <= len(self._free), f"{count} blocks wanted, {len(self._free)} are free"
        if count == 1:
            blocks = [self._free.pop()]
        else:
            cut = len(self._free) - count
            blocks = self._free[cut:][::-1]
            del self._free[cut:]
        for block in blocks:
            self._num_references[block] = 1
        return blocks

    def retain(self, block: int) -> bool:
        """Add a reference; says whether it is the first (the block was kept)."""
        self._num_references[block] += 1
        return self._num_references[block] == 1

    def release(self, block: int) -> bool:
        """Drop a reference; says whether it was the last (the block is now kept)."""
        count = self._num_references[block] - 1
        assert count >= 0, f"block {block} was released more often than taken"
        self._num_references[block] = count
        return count == 0

    def free(self, block: int) -> None:
        """Put a kept block back on the free list."""
        assert self._num_references[block] == 0, f"block {block} is in use and cannot be freed"
        self._free.append(block)

    def check_integrity(self, holders: Iterable[list[int]], kept: Iterable[int]) -> None:
        """Raise AssertionError unless the block tables `holders` account for every reference and
        every other block is either free or in `kept`, exactly once.
        """
        references = Counter(block for table in holders for block in table)
        kept = list(kept)
        for block in range(1, self.num_blocks):
            assert self._num_references[block] == references[block], (
                f"block {block} counts {self._num_references[block]} references, "
                f"{references[block]} block tables hold it"
            )
        idle = [*self._free, *kept]
        used = [block for block in references if references[block]]
        assert SCRAP_BLOCK not in references, "the scrap block is in a block table"
        assert sorted([*idle, *used]) == list(range(1, self.num_blocks)), (
            "free, kept and used blocks are not all blocks exactly once"
        )
