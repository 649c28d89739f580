"""Biases, penalties and masks by the operator, against those in torch: equal to the last bit."""

from typing import Any

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import BiasFields, MaskFields, Operators, PenaltyFields
from text_generation_shard.ops.token_masks import mask_scores
from text_generation_shard.sampling import penalties
from torch import Tensor

from tests.shard.sampling.rows import GARBAGE, pack_allowed

ROWS, WIDTH = 7, 60


def random_biases(size: int) -> BiasFields:
    """Of slots in another order than the rows; some have none."""
    slots = torch.randperm(ROWS + 2)[:ROWS]
    counts = torch.randint(0, min(size, 9) + 1, (ROWS + 2,))
    counts[slots[0]] = 0
    ids = torch.stack([torch.randperm(size)[torch.arange(9) % size] for _ in counts]).int()
    return ids.contiguous(), torch.randn(ROWS + 2, 9) * 10, counts, slots


def random_penalties(size: int) -> PenaltyFields:
    """Rows that ask for some, all or nothing; ids that are no tokens; empty histories."""
    source = torch.randint(0, min(size, 20), (ROWS + 3, WIDTH), dtype=torch.int32)
    source[torch.rand(source.shape) < 0.2] = size
    source[torch.rand(source.shape) < 0.05] = GARBAGE
    lengths = torch.randint(0, WIDTH + 1, (ROWS,))
    lengths[2], lengths[3] = 0, WIDTH
    off = torch.rand(3, ROWS) < 0.4
    return (
        (torch.rand(ROWS) * 2 + 0.1).masked_fill(off[0], 1),
        torch.randn(ROWS).masked_fill(off[1], 0),
        torch.randn(ROWS).masked_fill(off[2], 0),
        source[:, :WIDTH],
        torch.randint(0, ROWS + 3, (ROWS,)),
        lengths,
        (lengths * torch.rand(ROWS)).long(),
    )


def random_masks(size: int) -> MaskFields:
    """With words of all kinds: full, empty and mixed; a mask of one token; rows that share one."""
    kinds = torch.randint(0, 3, (4, -(-size // 32))).repeat_interleave(32, dim=1)[:, :size]
    allowed = (kinds == 2) | ((kinds == 1) & (torch.rand(4, size) < 0.5))
    allowed[1] = torch.arange(size) == size - 1
    words = pack_allowed([row.nonzero().squeeze(1).tolist() for row in allowed], size)
    return words, torch.tensor([3, -1, 1, 0, 1, -1, 2])


def changed_by_torch(
    scores: Tensor,
    biases: BiasFields | None,
    penalties_: PenaltyFields | None,
    masks: MaskFields | None,
) -> Tensor:
    size = scores.shape[1]
    if biases is not None:
        ids, values, counts, slots = biases
        for row, slot in enumerate(slots.tolist()):
            count = int(counts[slot])
            scores[row].index_add_(0, ids[slot, :count].long(), values[slot, :count])
    if penalties_ is not None:
        repetition, frequency, presence, tokens, history_rows, lengths, starts = penalties_
        history = tokens[history_rows].long().clamp(max=size)
        seen = penalties.seen_counts(history, torch.zeros_like(starts), lengths, vocab_size=size)
        scores = penalties.penalise_repetition(scores, seen, repetition)
        counts = penalties.seen_counts(history, starts, lengths, vocab_size=size)
        scores = penalties.penalise_frequency(scores, counts, frequency, presence)
    if masks is not None:
        allowed, places = masks
        rows = (places >= 0).nonzero().squeeze(1)
        mask_scores(scores, tuple(rows.tolist()), allowed[places[rows]])
    return scores


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000, 49155])
@pytest.mark.parametrize("threads", [1, 2])
def test_all_changes(operators: Operators, size: int, threads: int) -> None:
    torch.manual_seed(size)
    library.set_num_threads(threads)
    try:
        for asked in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            makers = (random_biases, random_penalties, random_masks)
            fields: list[Any] = [
                make(size) if wanted else None for make, wanted in zip(makers, asked, strict=True)
            ]
            scores = (torch.randn(ROWS, size + 3) * 8)[:, :size]
            scores[5, 0] = float("nan")
            expected = changed_by_torch(scores.clone(), *fields)
            operators.change_scores(scores, *fields)
            assert torch.equal(scores.nan_to_num(9.0), expected.nan_to_num(9.0)), asked
    finally:
        library.set_num_threads(1)


def test_what_is_not_there_is_refused(operators: Operators) -> None:
    scores = torch.zeros(2, 40)
    mask = pack_allowed([[0]], 40)
    with pytest.raises(RuntimeError, match=r"places must lie in .* got 1"):
        operators.change_scores(scores, None, None, (mask, torch.tensor([0, 1])))
    with pytest.raises(RuntimeError, match="allowed must be"):
        operators.change_scores(torch.zeros(1, 65), None, None, (mask, torch.tensor([0])))
    ones, zeros, none = torch.ones(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    history = torch.zeros(3, 5, dtype=torch.int32)
    for rows, lengths, message in (
        (none + 3, none, "history_rows must lie in .* got 3"),
        (none, none + 6, "lengths must lie in .* got 6"),
    ):
        fields = (ones, zeros, zeros, history, rows, lengths, none)
        with pytest.raises(RuntimeError, match=message):
            operators.change_scores(scores, None, fields, None)
    biases = (history, history.float(), torch.zeros(3, dtype=torch.int64), none + 3)
    with pytest.raises(RuntimeError, match="slot 3 of 3"):
        operators.change_scores(scores, biases, None, None)
