"""Filters against the warpers of transformers, and at their edges."""

import pytest
import torch
from text_generation_shard.sampling.filters import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
)
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# Below and above the size from which the CPU looks at the best entries first.
VOCAB_SIZES = [50, 4000]


def make_scores(vocab_size, spread=3.0):
    generator = torch.Generator().manual_seed(vocab_size)
    return torch.randn(6, vocab_size, generator=generator) * spread


def warped(warper, scores):
    return warper(torch.zeros(len(scores), 1, dtype=torch.int64), scores.clone())


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("top_k", [1, 2, 17])
def test_top_k(vocab_size, top_k):
    scores = make_scores(vocab_size)
    kept = keep_top_k(scores, torch.full((6,), top_k), max_top_k=top_k + 5)
    assert torch.equal(kept, warped(TopKLogitsWarper(top_k), scores))


def test_top_k_keeps_ties_and_all_when_k_exceeds_the_vocabulary():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    kept = keep_top_k(scores, torch.tensor([2, 9]), max_top_k=9)
    assert kept.isfinite().tolist() == [[False, True, True, True], [True] * 4]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.2, 3.0])
def test_top_p(vocab_size, top_p, spread):
    """In float64, where the oracle's ascending sum does not round the set's size away."""
    scores = make_scores(vocab_size, spread)
    kept = keep_top_p(scores, torch.full((6,), top_p))
    expected = warped(TopPLogitsWarper(top_p), scores.double())
    assert (kept.isfinite() ^ expected.isfinite()).sum() <= 1
    assert torch.equal(kept[kept.isfinite()], scores[kept.isfinite()])


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("typical_p", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("spread", [0.2, 3.0])
def test_typical_p(vocab_size, typical_p, spread):
    scores = make_scores(vocab_size, spread)
    kept = keep_typical_p(scores, torch.full((6,), typical_p))
    expected = warped(TypicalLogitsWarper(mass=typical_p), scores.double())
    assert (kept.isfinite() ^ expected.isfinite()).sum() <= 1


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("min_p", [0.001, 0.1, 1.0])
def test_min_p(vocab_size, min_p):
    scores = make_scores(vocab_size)
    kept = keep_min_p(scores, torch.full((6,), min_p))
    assert torch.equal(kept, warped(MinPLogitsWarper(min_p), scores))


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("keep", [keep_top_p, keep_typical_p, keep_min_p])
def test_a_filter_leaves_removed_tokens_removed_and_one_token_in_place(keep, vocab_size):
    scores = make_scores(vocab_size)
    scores[:, 5:] = float("-inf")
    scores[3, 1:] = float("-inf")
    kept = keep(scores, torch.full((6,), 0.7))
    assert not kept[:, 5:].isfinite().any()
    assert kept.isfinite().any(dim=1).all()
    assert kept[3, 0] == scores[3, 0]


@pytest.mark.parametrize("keep", [keep_top_p, keep_typical_p])
def test_equal_scores_are_kept_or_removed_together(keep):
    scores = torch.tensor([[0.0, 2.0, 1.0, 1.0, 1.0, -9.0]])
    for mass in torch.linspace(0.02, 0.98, 33):
        kept = keep(scores, mass[None]).isfinite()[0]
        assert len(set(kept[2:5].tolist())) == 1


@pytest.mark.parametrize("keep", [keep_top_p, keep_typical_p])
def test_rows_that_need_the_full_sort_do_not_change_the_others(keep):
    peaked, flat = make_scores(4000, 5.0), make_scores(4000, 0.01)
    mass = torch.full((6,), 0.97)
    mixed = keep(torch.cat([peaked, flat]), torch.cat([mass, mass]))
    assert torch.equal(mixed[:6], keep(peaked, mass))
    assert torch.equal(mixed[6:], keep(flat, mass))
