"""The step log's rules: what a request may name, and what a refused sequence leaves behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.batch.sampling_table import SamplingTable
from text_generation_shard.batch.slots import SequenceSlots, SlotLimits
from text_generation_shard.errors import ProtocolError, StepRejectedError
from text_generation_shard.sampling.parameters import NO_FEATURES
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.step_script import StepScript, sampling

PROMPT = [(17 * index + 1) % VOCAB_SIZE for index in range(9)]


@pytest.fixture
def slots() -> SequenceSlots:
    """Slot 0 holds five tokens, none computed, and two blocks of four."""
    limits = SlotLimits(
        num_slots=3,
        max_total_tokens=12,
        num_blocks=6,
        block_size=4,
        vocab_size=100,
    )
    slots = SequenceSlots(limits, torch.device("cpu"))
    slots.admit([admission(0, 5, blocks=[1, 2])])
    return slots


def admission(slot: int, num_tokens: int, *, blocks: list[int] | None = None) -> pb.Admission:
    return pb.Admission(
        slot=slot,
        sequence_id=slot,
        token_ids=range(num_tokens),
        block_ids=blocks or [],
        sampling=sampling(),
    )


def work(slot: int, count: int, blocks: list[int] | None = None) -> pb.StepRequest:
    request = pb.StepRequest(work_slots=[slot], work_num_tokens=[count])
    if blocks:
        request.work_num_new_blocks.append(len(blocks))
        request.new_block_ids.extend(blocks)
    return request


VIOLATIONS: dict[str, Callable[[SequenceSlots], object]] = {
    "retire an empty slot": lambda slots: slots.retire([1]),
    "admit to an occupied slot": lambda slots: slots.admit([admission(0, 1)]),
    "admit beyond the slots": lambda slots: slots.admit([admission(3, 1)]),
    "admit nothing": lambda slots: slots.admit([admission(1, 0)]),
    "admit too long a sequence": lambda slots: slots.admit([admission(1, 13)]),
    "admit with a block beyond the cache": lambda slots: slots.admit([admission(1, 1, blocks=[6])]),
    "admit with the scrap block": lambda slots: slots.admit([admission(1, 1, blocks=[0])]),
    "admit with too many blocks": lambda slots: slots.admit([admission(1, 1, blocks=[1] * 5)]),
    "work for an empty slot": lambda slots: slots.schedule(work(1, 1)),
    "work for a slot twice": lambda slots: slots.schedule(
        pb.StepRequest(work_slots=[0, 0], work_num_tokens=[1, 1])
    ),
    "work without a count": lambda slots: slots.schedule(pb.StepRequest(work_slots=[0])),
    "no tokens": lambda slots: slots.schedule(work(0, 0)),
    "more tokens than known": lambda slots: slots.schedule(work(0, 6)),
    "blocks for nobody": lambda slots: slots.schedule(
        pb.StepRequest(work_slots=[0], work_num_tokens=[1], new_block_ids=[3])
    ),
    "fewer blocks than counted": lambda slots: slots.schedule(
        pb.StepRequest(work_slots=[0], work_num_tokens=[1], work_num_new_blocks=[1])
    ),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_violations_of_the_protocol(slots: SequenceSlots, violation: str) -> None:
    with pytest.raises(ProtocolError):
        VIOLATIONS[violation](slots)


@pytest.fixture
def encoder_slots() -> SequenceSlots:
    """Slots of an encoder-decoder, all of them empty."""
    limits = SlotLimits(
        num_slots=3,
        max_total_tokens=12,
        num_blocks=9,
        block_size=4,
        vocab_size=100,
        is_encoder_decoder=True,
    )
    return SequenceSlots(limits, torch.device("cpu"))


def with_encoder(slot: int, num_tokens: int, blocks: list[int], **changes: Any) -> pb.Admission:
    found = admission(slot, 1)
    found.encoder_token_ids.extend(range(50, 50 + num_tokens))
    found.encoder_block_ids.extend(blocks)
    found.MergeFrom(pb.Admission(**changes))
    return found


@pytest.mark.parametrize(
    ("num_tokens", "blocks"), [(0, []), (13, [1, 2, 3, 4]), (5, [1]), (5, [1, 9]), (5, [1, 0])]
)
def test_violations_of_the_protocol_by_encoders(
    num_tokens: int, blocks: list[int], encoder_slots: SequenceSlots
) -> None:
    with pytest.raises(ProtocolError):
        encoder_slots.admit([with_encoder(0, num_tokens, blocks)])


def test_encoders_are_of_encoder_decoders(slots: SequenceSlots) -> None:
    with pytest.raises(ProtocolError, match="5 tokens for an encoder"):
        slots.admit([with_encoder(1, 5, [3, 4])])


def test_an_encoder_must_read_in_the_step_that_admits(encoder_slots: SequenceSlots) -> None:
    encoder_slots.admit([with_encoder(0, 5, [3, 1]), with_encoder(2, 2, [7])])
    with pytest.raises(ProtocolError, match="not all have work"):
        encoder_slots.schedule(work(0, 1, [2]))


def test_where_encoders_write_and_what_decoders_see(encoder_slots: SequenceSlots) -> None:
    encoder_slots.admit([with_encoder(0, 5, [3, 1]), with_encoder(2, 2, [7])])
    request = pb.StepRequest(
        work_slots=[2, 0], work_num_tokens=[1, 1], work_num_new_blocks=[1, 1], new_block_ids=[4, 2]
    )
    batch = encoder_slots.schedule(request)
    assert [item.num_encoder_tokens for item in batch.items] == [2, 5]
    inputs = encoder_slots.model_inputs(batch.in_row_order()).encoder
    assert inputs is not None
    assert inputs.token_ids.tolist() == [50, 51, 50, 51, 52, 53, 54]
    assert list(inputs.lengths) == [2, 5]
    assert inputs.slot_mapping.tolist() == [28, 29, 12, 13, 14, 15, 4]
    assert inputs.attention.context_lengths == [2, 5]
    assert inputs.attention.block_tables[:, :2].tolist() == [[7, 0], [3, 1]]
    encoder_slots.advance(batch, torch.tensor([8, 9]))
    batch = encoder_slots.schedule(pb.StepRequest(work_slots=[0, 2], work_num_tokens=[1, 1]))
    inputs = encoder_slots.model_inputs(batch.in_row_order()).encoder
    assert inputs is not None
    assert list(inputs.lengths) == [] and len(inputs.token_ids) == 0
    assert inputs.attention.context_lengths == [5, 2]


def test_an_encoder_reads_no_token_outside_the_vocabulary(encoder_slots: SequenceSlots) -> None:
    bad = with_encoder(0, 3, [1], encoder_token_ids=[100])
    refused = encoder_slots.admit([bad, with_encoder(1, 3, [2])])
    assert [(entry.slot, entry.reason) for entry in refused] == [
        (0, "token id 100 lies outside the vocabulary")
    ]


def test_tokens_without_a_block(slots: SequenceSlots) -> None:
    slots.admit([admission(1, 5, blocks=[3])])
    with pytest.raises(ProtocolError, match="no block for token 4"):
        slots.schedule(work(1, 5))


def test_places_follow_the_block_table(slots: SequenceSlots) -> None:
    slots.admit([admission(1, 6, blocks=[5])])
    request = work(1, 6, blocks=[3])
    batch = slots.schedule(request)
    inputs = slots.model_inputs(batch.in_row_order())
    assert inputs.token_ids.tolist() == list(range(6))
    assert inputs.positions.tolist() == list(range(6))
    assert inputs.slot_mapping.tolist() == [20, 21, 22, 23, 12, 13]


def test_rows_hold_decodes_first_and_results_follow_the_work(slots: SequenceSlots) -> None:
    slots.admit([admission(1, 3, blocks=[3]), admission(2, 1, blocks=[4])])
    batch = slots.schedule(pb.StepRequest(work_slots=[0, 1, 2], work_num_tokens=[4, 3, 1]))
    assert [item.slot for item in batch.in_row_order()] == [2, 0, 1]
    assert [item.slot for item in batch.sampled] == [1, 2]
    slots.advance(batch, torch.tensor([77, 88]))
    assert slots.known_tokens(1, 0, 4).tolist() == [0, 1, 2, 77]
    assert slots.known_tokens(2, 0, 2).tolist() == [0, 88]
    assert (slots[0].num_tokens, slots[0].num_computed_tokens) == (5, 4)
    assert (slots[1].num_tokens, slots[1].num_computed_tokens) == (4, 3)


@pytest.mark.parametrize(
    ("token_id", "parameters", "reason"),
    [
        (VOCAB_SIZE, sampling(), "outside the vocabulary"),
        (0, sampling(top_p=2.0), "top_p"),
        (0, sampling(logit_bias_ids=[VOCAB_SIZE], logit_bias_values=[1.0]), "logit_bias"),
    ],
)
def test_a_sequence_that_cannot_be_computed_fails_alone(
    checkpoint: Checkpoint,
    shard: Shard,
    token_id: int,
    parameters: pb.SamplingParameters,
    reason: str,
) -> None:
    """The steps that were sent ahead are answered, and the others go on once admitted again."""
    expected = checkpoint.greedy(PROMPT, 4)
    script = StepScript()
    script.admit(0, PROMPT, sequence_id=7)
    script.prefill(0, 100)
    script.admit(1, [3, token_id, 4], sequence_id=8, sampling=parameters)
    script.step({0: 1, 1: 3})
    script.step({0: 1, 1: 1})
    script.retire(0)
    script.retire(1)
    script.admit(1, [*PROMPT, *expected[:1]], num_emitted=1, sequence_id=7)
    script.prefill(1, 100)
    script.decode([1], 2)
    first, bad, ahead, *rest = script.requests
    assert list(shard.step(first).token_ids) == expected[:1]
    with pytest.raises(StepRejectedError, match=reason) as caught:
        shard.step(bad)
    assert caught.value.slots == (1,)
    assert "sequence 8" in str(caught.value)
    assert len(shard.step(ahead).token_ids) == 2
    assert [token for request in rest for token in shard.step(request).token_ids] == expected[1:]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ..."),
        MemoryError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=["torch", "C++", "Python"],
)
def test_memory_that_runs_out_fails_the_largest_work_only(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 100)
    script.admit(1, PROMPT)
    script.step({0: 1, 1: 9})
    script.step({0: 1, 1: 1})
    first, second, third = script.requests
    shard.step(first)
    model = shard._loaded.model

    def exhausted(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", exhausted)
        with pytest.raises(StepRejectedError, match="out of memory") as caught:
            shard.step(second)
    assert caught.value.slots == (1,)
    assert len(shard.step(third).token_ids) == 2


def test_rows_that_fill_up_a_step_ask_the_sampler_for_nothing() -> None:
    """Kernels look at the numbers alone."""
    table = SamplingTable(2, 10, torch.device("cpu"))
    tokens, row = torch.zeros(2, 4, dtype=torch.int32), torch.ones(1, dtype=torch.int64)
    rows = table.device_rows(row, row, tokens, NO_FEATURES)
    assert (float(rows.temperature), float(rows.top_p), float(rows.typical_p)) == (1, 1, 1)
    assert (float(rows.min_p), int(rows.top_k), bool(rows.draws)) == (0, 0, False)
    assert float(rows.repetition_penalty) == 1
    assert (float(rows.frequency_penalty), float(rows.presence_penalty)) == (0, 0)
