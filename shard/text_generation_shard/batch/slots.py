"""What the shard remembers of the sequences that hold a slot: a cache of the router's truth.

Token values live on the device, for the next step may be asked for before the last one's tokens
were seen; how many there are is known on the host. The order of a step's effects:

    1. retire     slots are free; their tokens and blocks mean nothing any more
    2. admit      free slots get tokens, block table and parameters
    3. schedule   block tables grow, the work is listed
    4. advance    after the forward: lengths grow, sampled tokens stand behind the known ones

A request that cannot be meant (ProtocolError) ends the shard. A sequence that cannot be computed
(a token outside the vocabulary) is refused after 3: lengths then still agree with the router's
count, and so do the answers to steps that it sent ahead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from text_generation_proto import shard_pb2 as pb
from torch import Tensor

from text_generation_shard.batch.block_tables import BlockTables
from text_generation_shard.batch.encoder_slots import EncoderSlots, TokenIds
from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.batch.sampling_table import SamplingTable
from text_generation_shard.batch.scheduled_batch import ScheduledBatch, WorkItem
from text_generation_shard.batch.upload import Numbers, upload
from text_generation_shard.errors import ProtocolError
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.flash_attention import FlashAttention
from text_generation_shard.ops.paged_attention import plan_attention, plan_decode
from text_generation_shard.ops.sequence_rows import SequenceRows
from text_generation_shard.sampling.parameters import (
    NO_FEATURES,
    SamplingFeatures,
    SamplingParameterError,
    SamplingParameters,
)
from text_generation_shard.sampling.rows import SamplingRows


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """How many slots there are, how large they are, and what may stand in them."""

    num_slots: int
    # Longest sequence. One more token has room: a step sent ahead may sample one too many.
    max_total_tokens: int
    num_blocks: int
    block_size: int
    vocab_size: int
    # The windows of the model's layers, each once; None: a layer sees all tokens.
    sliding_windows: tuple[Window, ...] = (None,)
    is_encoder_decoder: bool = False
    # Whether a sequence may begin with tokens of another: not where layers are recurrent.
    can_share_prefixes: bool = True


@dataclass(slots=True, kw_only=True)
class SlotState:
    """The host's half of one occupied slot."""

    sequence_id: int
    # Tokens before the first generated one.
    num_prompt_tokens: int
    # Tokens known on the device, whether or not the router has seen them.
    num_tokens: int
    # Tokens whose keys and values are in the cache.
    num_computed_tokens: int
    top_n_tokens: int
    prompt_logprobs: bool


@dataclass(frozen=True, slots=True)
class RefusedSequence:
    """A sequence that was admitted but cannot be computed."""

    slot: int
    sequence_id: int
    reason: str


class SequenceSlots:
    """Owns the slots; `limits` says how many and how large. flash_attention: see
    `plan_attention`.
    """

    def __init__(
        self,
        limits: SlotLimits,
        device: torch.device,
        flash_attention: FlashAttention | None = None,
    ) -> None:
        self._limits = limits
        self._flash_attention = flash_attention
        self._device = device
        self._states: dict[int, SlotState] = {}
        width = limits.max_total_tokens + 1
        # One slot more: rows that only fill up a step (`scrap_slot`).
        num_slots = limits.num_slots + 1
        # Prompt, then generated tokens. What lies behind a sequence's tokens is left over from
        # others, but always a token id.
        self._tokens = torch.zeros(num_slots, width, dtype=torch.int32, device=device)
        self._sampling = SamplingTable(num_slots, limits.vocab_size, device)
        self._block_tables = BlockTables(
            num_slots=num_slots,
            max_blocks=-(-width // limits.block_size),
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            device=device,
        )
        self._encoders: EncoderSlots | None = None
        if limits.is_encoder_decoder:
            self._encoders = EncoderSlots(
                num_slots=limits.num_slots,
                max_tokens=limits.max_total_tokens,
                num_blocks=limits.num_blocks,
                block_size=limits.block_size,
                device=device,
            )

    def __getitem__(self, slot: int) -> SlotState:
        return self._states[slot]

    def retire(self, slots: Iterable[int]) -> None:
        """Free slots."""
        for slot in slots:
            if self._states.pop(slot, None) is None:
                raise ProtocolError(f"retired slot {slot} holds no sequence")

    def retire_all(self) -> None:
        """Free every slot."""
        self._states.clear()

    def admit(self, admissions: Iterable[pb.Admission]) -> list[RefusedSequence]:
        """Fill free slots; returns the sequences that cannot be computed."""
        reasons = ((admission, self._admit(admission)) for admission in admissions)
        return [
            RefusedSequence(admission.slot, admission.sequence_id, reason)
            for admission, reason in reasons
            if reason is not None
        ]

    def schedule(self, request: pb.StepRequest) -> ScheduledBatch:
        """Append the step's new blocks and list its work."""
        slots, counts = list(request.work_slots), list(request.work_num_tokens)
        if len(slots) != len(counts) or len(set(slots)) != len(slots):
            raise ProtocolError("work_slots has a slot twice, or not one work_num_tokens for each")
        if not self._states.keys() >= set(slots):
            raise ProtocolError(f"work for a slot that holds no sequence, among {slots}")
        new_blocks = list(request.work_num_new_blocks)
        if new_blocks and len(new_blocks) != len(slots):
            raise ProtocolError("work_num_new_blocks has not one entry for each of work_slots")
        if self._encoders is not None:
            self._encoders.require_work(slots)
        self._block_tables.append(slots if new_blocks else [], new_blocks, request.new_block_ids)
        return ScheduledBatch(tuple(map(self._work_item, slots, counts)))

    def model_inputs(self, rows: Sequence[WorkItem]) -> ModelInputs:
        """The tensors of a step whose rows lie in this order; decode rows come first.

        rows        item 0          | item 1 | item 2
        tokens      start .. end - 1| ...    | ...
        """
        slots = np.array([item.slot for item in rows])
        lengths = np.array([item.num_tokens for item in rows])
        starts = np.array([item.start for item in rows])
        first_rows = lengths.cumsum() - lengths
        offsets = np.repeat(starts - first_rows, lengths)
        token_slots = self._on_device(np.repeat(slots, lengths))
        row_slots = self._on_device(slots)
        block_tables = self._block_tables.rows(row_slots)
        positions = self._on_device(np.arange(len(offsets)) + offsets)
        return ModelInputs(
            token_ids=self._tokens[token_slots, positions],
            positions=positions,
            slot_mapping=self._block_tables.places(token_slots, positions),
            attention={
                window: plan_attention(
                    block_tables=block_tables,
                    query_lengths=[item.num_tokens for item in rows],
                    context_lengths=[item.end for item in rows],
                    block_size=self._limits.block_size,
                    sliding_window=window,
                    flash_attention=self._flash_attention,
                )
                for window in self._limits.sliding_windows
            },
            max_total_tokens=self._limits.max_total_tokens,
            encoder=None if self._encoders is None else self._encoders.inputs(rows),
            sequences=SequenceRows(
                slots=row_slots,
                first_rows=torch.from_numpy(np.append(first_rows, len(offsets))),
                num_decodes=int((lengths == 1).sum()),
                new_slots=self._on_device(slots[starts == 0]),
            ),
        )

    def sampling_rows(self, sampled: Sequence[WorkItem]) -> SamplingRows:
        """What the sampler needs to know of items that sample."""
        return self._sampling.rows(sampled, self._tokens)

    @property
    def scrap_slot(self) -> int:
        """No sequence's: its one token is read from and written to the scrap block."""
        return self._limits.num_slots

    def sampling_parameters(self, slot: int) -> SamplingParameters:
        """What one sequence asked of the sampler."""
        return self._sampling.parameters(slot)

    def holds_bias(self, slot: int) -> bool:
        """Whether `decode_rows` know all that is added to scores of the slot's sequence."""
        return self._sampling.holds_bias(slot)

    def decode_inputs(self, slots: Tensor, contexts: Tensor) -> ModelInputs:
        """The tensors of a step of one token per slot, made on the device alone; int64 [rows] each.

        contexts: tokens up to and with the one that is computed.
        """
        positions = contexts - 1
        block_tables = self._block_tables.rows(slots)
        return ModelInputs(
            token_ids=self._tokens[slots, positions],
            positions=positions,
            slot_mapping=self._block_tables.places(slots, positions),
            attention={
                window: plan_decode(
                    block_tables=block_tables,
                    contexts=contexts.int(),
                    max_context=self._limits.max_total_tokens,
                    block_size=self._limits.block_size,
                    sliding_window=window,
                )
                for window in self._limits.sliding_windows
            },
            max_total_tokens=self._limits.max_total_tokens,
            # Only the host knows who is new: such a step has no graph where layers are recurrent.
            sequences=SequenceRows(
                slots=slots,
                first_rows=torch.arange(len(slots) + 1),
                num_decodes=len(slots),
                new_slots=slots[:0],
            ),
        )

    def decode_rows(
        self, slots: Tensor, contexts: Tensor, features: SamplingFeatures
    ) -> SamplingRows:
        """What the sampler needs to know of such a step."""
        return self._sampling.device_rows(slots, contexts, self._tokens, features)

    def scrap_rows(self) -> SamplingRows:
        """Of one row that fills up a step, and asks for nothing."""
        slots, contexts = self._on_device([[self.scrap_slot], [1]])
        return self.decode_rows(slots, contexts, NO_FEATURES)

    def append_tokens(self, slots: Tensor, contexts: Tensor, token_ids: Tensor) -> None:
        """Write a token behind each slot's context; int64 [rows] each."""
        self._tokens[slots, contexts] = token_ids.int()

    def known_tokens(self, slot: int, first: int, last: int) -> Tensor:
        """int64 [last - first]: a sequence's tokens at the positions first to last - 1."""
        return self._tokens[slot, first:last].long()

    def advance(self, batch: ScheduledBatch, sampled_ids: Tensor | None) -> None:
        """The step is done; sampled_ids, int64 [sampled], are the new last tokens.

        None: they stand there already, or the step was refused. Lengths grow all the same.
        """
        sampled = batch.sampled
        if sampled and sampled_ids is not None:
            slots = self._on_device(np.array([item.slot for item in sampled]))
            contexts = self._on_device(np.array([item.end for item in sampled]))
            self.append_tokens(slots, contexts, sampled_ids)
        for item in batch.items:
            state = self._states[item.slot]
            state.num_computed_tokens = item.end
            state.num_tokens += item.is_sampled
        if self._encoders is not None:
            self._encoders.finish_step()

    def _admit(self, admission: pb.Admission) -> str | None:
        """Fill one slot; returns why the sequence cannot be computed, if so."""
        self._check_admission(admission)
        slot = admission.slot
        token_ids = np.array(admission.token_ids, dtype=np.int64)
        num_prompt_tokens = len(token_ids) - admission.num_emitted
        reason = self._clear_unknown(token_ids)
        if self._encoders is not None:
            encoder_ids = np.array(admission.encoder_token_ids, dtype=np.int64)
            reason = self._clear_unknown(encoder_ids) or reason
            self._encoders.admit(slot, encoder_ids, admission.encoder_block_ids)
        try:
            self._sampling.set(slot, admission.sampling, output_start=num_prompt_tokens)
        except SamplingParameterError as error:
            reason = str(error)
        self._tokens[slot, : len(token_ids)] = self._on_device(token_ids).int()
        self._block_tables.clear(slot)
        self._block_tables.append([slot], [len(admission.block_ids)], admission.block_ids)
        self._states[slot] = SlotState(
            sequence_id=admission.sequence_id,
            num_prompt_tokens=num_prompt_tokens,
            num_tokens=len(token_ids),
            num_computed_tokens=admission.num_cached_tokens,
            top_n_tokens=admission.top_n_tokens,
            prompt_logprobs=admission.prompt_logprobs,
        )
        return reason

    def _clear_unknown(self, token_ids: TokenIds) -> str | None:
        """Where a token lies outside the vocabulary: say which, and put others there."""
        if token_ids.max() < self._limits.vocab_size:
            return None
        reason = f"token id {token_ids.max()} lies outside the vocabulary"
        token_ids[:] = 0
        return reason

    def _check_admission(self, admission: pb.Admission) -> None:
        slot, num_tokens = admission.slot, len(admission.token_ids)
        if slot >= self._limits.num_slots or slot in self._states:
            raise ProtocolError(f"slot {slot} is occupied or one of more than were agreed on")
        if not 0 < num_tokens <= self._limits.max_total_tokens:
            raise ProtocolError(
                f"sequence {admission.sequence_id} has {num_tokens} tokens, not 1 to "
                f"{self._limits.max_total_tokens}"
            )
        num_encoder_tokens = len(admission.encoder_token_ids)
        if self._limits.is_encoder_decoder:
            is_right = 0 < num_encoder_tokens <= self._limits.max_total_tokens
        else:
            is_right = num_encoder_tokens == 0
        if not is_right:
            raise ProtocolError(
                f"sequence {admission.sequence_id} has {num_encoder_tokens} tokens for an encoder"
            )
        if admission.num_emitted >= num_tokens or admission.num_cached_tokens >= num_tokens:
            raise ProtocolError(
                f"sequence {admission.sequence_id}: emitted and cached tokens must be fewer than "
                f"its {num_tokens}"
            )
        if admission.num_cached_tokens and not self._limits.can_share_prefixes:
            raise ProtocolError(
                f"sequence {admission.sequence_id}: this model's state cannot be taken from a "
                "prefix cache"
            )

    def _work_item(self, slot: int, num_tokens: int) -> WorkItem:
        state = self._states[slot]
        start = state.num_computed_tokens
        end = start + num_tokens
        if not start < end <= min(state.num_tokens, self._limits.max_total_tokens):
            raise ProtocolError(
                f"slot {slot}: {num_tokens} more tokens after {start} of {state.num_tokens}"
            )
        if not self._block_tables.holds(slot, end):
            raise ProtocolError(f"slot {slot}: no block for token {end - 1}")
        encoders = self._encoders
        return WorkItem(
            slot=slot,
            start=start,
            num_tokens=num_tokens,
            is_sampled=end == state.num_tokens,
            num_encoder_tokens=0 if encoders is None else encoders.num_unread(slot),
        )

    def _on_device(self, values: Numbers) -> Tensor:
        return upload(values, self._device)
