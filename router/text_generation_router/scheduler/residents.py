"""The sequences that hold a slot, with their slots and blocks.

Order of effects, on the way in: blocks found in the prefix cache are referenced, a slot is taken,
then the encoder's blocks, the sequence is listed. On the way out, the same in `leave`, which every
way out passes: unlisted, blocks released, slot put on the list that the next step retires and at
once free again. Retirements come before admissions within a step, so a slot may be retired and
given anew by the same step.
"""

import heapq

from text_generation_router.scheduler.prefix_cache import PrefixCache
from text_generation_router.scheduler.sequence import Sequence, SequenceState


class Residents:
    """Owns slots, and the blocks of the sequences that have one."""

    def __init__(self, *, max_slots: int, cache: PrefixCache, block_size: int) -> None:
        # By sequence id; `decoding` once a planned step samples, `prefilling` before.
        self.decoding: dict[int, Sequence] = {}
        self.prefilling: dict[int, Sequence] = {}
        self.cache = cache
        self.block_size = block_size
        self.max_slots = max_slots
        self._free_slots = list(range(max_slots))
        self._retired_slots: list[int] = []

    def __len__(self) -> int:
        return len(self.decoding) + len(self.prefilling)

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    @property
    def num_promised_blocks(self) -> int:
        """Blocks that prompts being read will need and do not have yet."""
        return sum(
            self.blocks_for(sequence.num_known_tokens) - len(sequence.block_table)
            for sequence in self.prefilling.values()
        )

    def take_retired_slots(self) -> list[int]:
        """Slots for the next step to retire; each is told once."""
        retired, self._retired_slots = self._retired_slots, []
        return retired

    def enter(self, sequence: Sequence, cached_blocks: list[int], now: float) -> None:
        """Give a waiting sequence a slot, its prefix in cached blocks, and blocks for all that its
        encoder reads. There must be enough.
        """
        self.cache.take(cached_blocks)
        sequence.move_to(SequenceState.RUNNING)
        sequence.slot = heapq.heappop(self._free_slots)
        sequence.block_table = list(cached_blocks)
        num_encoder_blocks = self.blocks_for(len(sequence.encoder_ids))
        sequence.encoder_table = self.cache.allocate(num_encoder_blocks)
        sequence.num_named_blocks = len(cached_blocks)
        sequence.num_computed_tokens = len(cached_blocks) * self.block_size
        sequence.admitted_at = now
        if sequence.first_admitted_at is None:
            sequence.first_admitted_at = now
            sequence.num_cached_tokens = sequence.num_computed_tokens
        self.prefilling[sequence.sequence_id] = sequence

    def start_decoding(self, sequence: Sequence) -> None:
        """A planned step reads the last of its known tokens."""
        del self.prefilling[sequence.sequence_id]
        self.decoding[sequence.sequence_id] = sequence

    def grow(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Append the blocks that its next tokens need; returns them. There must be enough."""
        missing = self.blocks_for(sequence.num_computed_tokens + num_tokens) - len(
            sequence.block_table
        )
        if missing <= 0:
            return []
        blocks = self.cache.allocate(missing)
        sequence.block_table += blocks
        return blocks

    def leave(self, sequence: Sequence) -> None:
        """Take slot and blocks from a running sequence; its state is the caller's to change."""
        assert sequence.slot is not None
        if self.decoding.pop(sequence.sequence_id, None) is None:
            del self.prefilling[sequence.sequence_id]
        self.cache.release(sequence.block_table)
        self.cache.release(sequence.encoder_table)
        self._retired_slots.append(sequence.slot)
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = None
        sequence.block_table = []
        sequence.encoder_table = []
        sequence.num_named_blocks = 0
        sequence.num_computed_tokens = 0

    def youngest(self) -> Sequence:
        """The resident that was submitted last."""
        return max(
            [*self.decoding.values(), *self.prefilling.values()],
            key=lambda sequence: sequence.sequence_id,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless slots, blocks and counts agree."""
        residents = [*self.decoding.values(), *self.prefilling.values()]
        self.cache.check_integrity(
            [*sequence.block_table, *sequence.encoder_table] for sequence in residents
        )
        slots = [sequence.slot for sequence in residents if sequence.slot is not None]
        assert len(slots) == len(residents)
        assert sorted([*slots, *self._free_slots]) == list(range(self.max_slots)), "slots leaked"
        writable: set[int] = set()
        for sequence in residents:
            assert sequence.state is SequenceState.RUNNING
            capacity = len(sequence.block_table) * self.block_size
            assert sequence.num_computed_tokens <= capacity
            assert sequence.num_known_tokens <= sequence.max_known_tokens
            num_encoder_blocks = self.blocks_for(len(sequence.encoder_ids))
            assert len(sequence.encoder_table) == num_encoder_blocks
            # Blocks that it still writes into belong to it alone, and so do its encoder's.
            own = sequence.block_table[sequence.num_computed_tokens // self.block_size :]
            own = [*own, *sequence.encoder_table]
            assert writable.isdisjoint(own), "two sequences write into one block"
            writable.update(own)
        for sequence in self.decoding.values():
            assert sequence.num_computed_tokens == sequence.num_known_tokens - 1
        for sequence in self.prefilling.values():
            assert sequence.num_computed_tokens < sequence.num_known_tokens
            assert sequence.num_pending_tokens == 0
