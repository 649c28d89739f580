"""Masks of allowed tokens against their unpacked form."""

import pytest
import torch
from text_generation_shard.ops import token_masks
from text_generation_shard.ops.cpu.library import Operators
from text_generation_shard.ops.token_masks import mask_scores, unpacked

from tests.shard.sampling.rows import pack_allowed


def _random_masks(rows: int, size: int) -> list[list[int]]:
    """Masks with words of all kinds: full, empty and mixed."""
    source = torch.Generator().manual_seed(size)
    of_words = torch.randint(0, 3, (rows, -(-size // 32)), generator=source)
    kinds = of_words.repeat_interleave(32, dim=1)[:, :size]
    mixed = torch.randint(0, 2, (rows, size), generator=source)
    allowed = (kinds == 2) | ((kinds == 1) & (mixed == 1))
    return [row.nonzero().squeeze(1).tolist() for row in allowed]


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000, 49155])
def test_masked_rows_lose_what_is_not_allowed(operators: Operators, size: int) -> None:
    rows = torch.tensor([5, 0, 3])
    masks = _random_masks(len(rows), size)
    scores = torch.randn(7, size + 3)[:, :size]
    scores[3, 0] = float("nan")
    expected = scores.clone()
    for row, allowed in zip(rows.tolist(), masks, strict=True):
        is_removed = torch.ones(size, dtype=torch.bool)
        is_removed[allowed] = False
        expected[row, is_removed] = float("-inf")
    operators.mask_scores(scores, rows, pack_allowed(masks, size))
    assert torch.equal(scores.nan_to_num(9.0), expected.nan_to_num(9.0))


def test_a_row_that_is_not_there_is_refused(operators: Operators) -> None:
    mask = pack_allowed([[0]], 40)
    with pytest.raises(RuntimeError, match="rows must name rows"):
        operators.mask_scores(torch.zeros(2, 40), torch.tensor([2]), mask)
    with pytest.raises(RuntimeError, match="allowed must be"):
        operators.mask_scores(torch.zeros(2, 65), torch.tensor([1]), mask)


@pytest.mark.parametrize("has_operators", [True, False])
def test_both_paths_change_the_scores_in_place(
    monkeypatch: pytest.MonkeyPatch, has_operators: bool
) -> None:
    if not has_operators:
        monkeypatch.setattr(token_masks, "native_operators", lambda _: None)
    scores = torch.zeros(3, 70)
    mask_scores(scores, (2, 0), pack_allowed([[69], [1, 33]], 70))
    kept = [row.isfinite().nonzero().squeeze(1).tolist() for row in scores]
    assert kept == [[1, 33], list(range(70)), [69]]


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 100])
def test_packed_masks(vocab_size: int) -> None:
    allowed = [[0, 30], [vocab_size - 1], list(range(vocab_size))]
    mask = unpacked(pack_allowed(allowed, vocab_size), vocab_size=vocab_size)
    assert [row.nonzero().squeeze(1).tolist() for row in mask] == allowed
