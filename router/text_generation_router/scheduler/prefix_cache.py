"""The prefix cache: full blocks found again by what they hold.

A block is named when a step that fills it has been planned (prompt tokens) or its tokens have come
back (generated tokens); see `scheduler` for why that is safe. Named blocks without references stay
here, least recently used first, until their room is needed.

Order of effects: `allocate` evicts (forgets names, frees blocks) only as many blocks as it hands
out, and only after its caller has seen in `num_available` that there are enough. `release` walks a
block table from its end, so that of a chain the tail is evicted first.
"""

from collections import OrderedDict
from collections.abc import Iterable

from text_generation_router.scheduler.block_allocator import BlockAllocator


class PrefixCache:
    """Owns the names and, through its allocator, every block."""

    def __init__(self, num_blocks: int, *, keeps_names: bool = True) -> None:
        """keeps_names: False where no block may be used by another sequence: nothing is found."""
        self.keeps_names = keeps_names
        self._allocator = BlockAllocator(num_blocks)
        self._block_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}
        # Named blocks without references, least recently used first.
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give: free ones and idle cached ones."""
        return self._allocator.num_free + len(self._idle)

    @property
    def num_used(self) -> int:
        return self._allocator.num_blocks - 1 - self.num_available

    @property
    def num_idle(self) -> int:
        """Cached blocks that no sequence holds."""
        return len(self._idle)

    def find(self, name: bytes) -> int | None:
        """The block of this name, or None. Takes no reference."""
        return self._block_of.get(name)

    def is_idle(self, block: int) -> bool:
        """Whether the block is cached without references, so that taking it costs an available
        one.
        """
        return block in self._idle

    def take(self, blocks: Iterable[int]) -> None:
        """Add a reference to found blocks."""
        for block in blocks:
            if self._allocator.retain(block):
                del self._idle[block]

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each, evicting where free ones do not suffice; the
        caller has checked `num_available`.
        """
        for _ in range(count - self._allocator.num_free):
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._name_of.pop(block)]
            self._allocator.free(block)
        return self._allocator.allocate(count)

    def name(self, block: int, name: bytes) -> bool:
        """Name a used block; False (and no effect) if names are not kept, or another block holds
        the name already.
        """
        if not self.keeps_names or name in self._block_of:
            return False
        assert block not in self._name_of, f"block {block} has another name"
        self._block_of[name] = block
        self._name_of[block] = name
        return True

    def forget(self, block: int, name: bytes) -> None:
        """Take back a name because the block's content was not computed after all."""
        if self._name_of.get(block) != name:
            return
        del self._block_of[name], self._name_of[block]
        if block in self._idle:
            del self._idle[block]
            self._allocator.free(block)

    def release(self, block_table: list[int]) -> None:
        """Drop one reference to each block; named ones stay findable."""
        for block in reversed(block_table):
            if self._allocator.release(block):
                if block in self._name_of:
                    self._idle[block] = None
                else:
                    self._allocator.free(block)

    def check_integrity(self, holders: Iterable[list[int]]) -> None:
        """Raise AssertionError unless every block is accounted for and names are one to one."""
        self._allocator.check_integrity(holders, self._idle)
        assert {name: block for block, name in self._name_of.items()} == self._block_of
        for block in self._idle:
            assert block in self._name_of, f"idle block {block} has no name"
