"""What the encoders of encoder-decoders read, and where the decoders find it.

An encoder runs once, whole, in the step that admits its sequence. Its keys and values for every
layer of the decoder lie in blocks of the same cache, in a table of their own, and are only read
from then on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from text_generation_shard.batch.block_tables import BlockTables
from text_generation_shard.batch.scheduled_batch import WorkItem
from text_generation_shard.batch.upload import Numbers, upload
from text_generation_shard.errors import ProtocolError
from text_generation_shard.ops.paged_attention import AttentionPlan, plan_attention

TokenIds = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInputs:
    """The encoders' part of a step.

    token_ids: [encoder tokens], int64, what encoders read in this step, one after the other;
    lengths: how much each of them reads; slot_mapping: [encoder tokens], int64, place in the
    flattened cache where the token's key and value go; attention: every token of the decoder over
    all that its sequence's encoder has read.
    """

    token_ids: Tensor
    lengths: Sequence[int]
    slot_mapping: Tensor
    attention: AttentionPlan


class EncoderSlots:
    """Owns the second block table of every slot, and what encoders have yet to read."""

    def __init__(
        self,
        *,
        num_slots: int,
        max_tokens: int,
        num_blocks: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self._block_size = block_size
        self._device = device
        self._tables = BlockTables(
            num_slots=num_slots,
            max_blocks=-(-max_tokens // block_size),
            num_blocks=num_blocks,
            block_size=block_size,
            device=device,
        )
        # Tokens that the encoder of each slot has read, or reads in the step under way.
        self._lengths = [0] * num_slots
        # By slot, what was admitted with the step under way.
        self._unread: dict[int, TokenIds] = {}

    def admit(self, slot: int, token_ids: TokenIds, block_ids: Sequence[int]) -> None:
        """Fill one slot."""
        self._tables.clear(slot)
        self._tables.append([slot], [len(block_ids)], block_ids)
        if not self._tables.holds(slot, len(token_ids)):
            raise ProtocolError(
                f"slot {slot}: {len(block_ids)} blocks for {len(token_ids)} tokens of an encoder"
            )
        self._lengths[slot] = len(token_ids)
        self._unread[slot] = token_ids

    def num_unread(self, slot: int) -> int:
        """Tokens that the slot's encoder reads in the step under way."""
        return len(self._unread.get(slot, ()))

    def require_work(self, slots: Sequence[int]) -> None:
        """ProtocolError unless all sequences that were just admitted are among `slots`."""
        if not self._unread.keys() <= set(slots):
            raise ProtocolError(f"slots {sorted(self._unread)} were admitted, not all have work")

    def inputs(self, rows: Sequence[WorkItem]) -> EncoderInputs:
        """The tensors of a step whose rows lie in this order.

        To the attention each token of a decoder is a request of one row whose context is all that
        its encoder read: whatever its position, it sees the whole.
        """
        reading = [item.slot for item in rows if item.slot in self._unread]
        token_ids = [self._unread[slot] for slot in reading]
        lengths = [len(ids) for ids in token_ids]
        nothing = np.empty(0, dtype=np.int64)
        positions = np.concatenate([nothing, *(np.arange(length) for length in lengths)])
        slots = np.repeat(np.array(reading, dtype=np.int64), lengths)
        row_slots = [item.slot for item in rows for _ in range(item.num_tokens)]
        return EncoderInputs(
            token_ids=self._on_device(np.concatenate([nothing, *token_ids])),
            lengths=lengths,
            slot_mapping=self._tables.places(self._on_device(slots), self._on_device(positions)),
            attention=plan_attention(
                block_tables=self._tables.rows(self._on_device(np.array(row_slots))),
                query_lengths=[1] * len(row_slots),
                context_lengths=[self._lengths[slot] for slot in row_slots],
                block_size=self._block_size,
                sliding_window=None,
            ),
        )

    def finish_step(self) -> None:
        """The step is done, or was refused: nothing of it is to be read any more."""
        self._unread.clear()

    def _on_device(self, values: Numbers) -> Tensor:
        return upload(values, self._device)
