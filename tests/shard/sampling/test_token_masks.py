"""Masks of allowed tokens against their unpacked form."""

import pytest
import torch
from text_generation_shard.ops.token_masks import mask_scores, unpacked

from tests.shard.sampling.rows import pack_allowed


def test_masked_rows_change_in_place() -> None:
    scores = torch.zeros(3, 70)
    mask_scores(scores, (2, 0), pack_allowed([[69], [1, 33]], 70))
    kept = [row.isfinite().nonzero().squeeze(1).tolist() for row in scores]
    assert kept == [[1, 33], list(range(70)), [69]]


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 100])
def test_packed_masks(vocab_size: int) -> None:
    allowed = [[0, 30], [vocab_size - 1], list(range(vocab_size))]
    mask = unpacked(pack_allowed(allowed, vocab_size), vocab_size=vocab_size)
    assert [row.nonzero().squeeze(1).tolist() for row in mask] == allowed
