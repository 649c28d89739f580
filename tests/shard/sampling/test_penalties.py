import pytest
import torch
from text_generation_shard.sampling.penalties import (
    green_list,
    penalise_frequency,
    penalise_repetition,
    seen_counts,
)
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from tests.shard.sampling.rows import GARBAGE


def test_counts_look_at_the_valid_range_only():
    history = torch.tensor([[3, 0, 3, GARBAGE], [0, 1, 1, 1], [2, -7, GARBAGE, -1]])
    counts = seen_counts(history, torch.tensor([0, 1, 1]), torch.tensor([3, 4, 1]), vocab_size=4)
    assert counts.tolist() == [[1, 0, 0, 2], [0, 3, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 30, generator=generator)
    history = torch.randint(0, 30, (3, 12), generator=generator)
    seen = seen_counts(history, torch.zeros(3).long(), torch.full((3,), 12), vocab_size=30)
    penalised = penalise_repetition(scores, seen, torch.full((3,), penalty))
    assert torch.equal(penalised, RepetitionPenaltyLogitsProcessor(penalty)(history, scores))


def test_frequency_counts_every_occurrence_and_presence_one():
    counts = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    penalised = penalise_frequency(
        torch.zeros(2, 3), counts, torch.tensor([0.5, -1.0]), torch.tensor([0.25, 0.0])
    )
    assert penalised.tolist() == [[0.0, -0.75, -1.75], [2.0, 0.0, 0.0]]


@pytest.mark.parametrize(("vocab_size", "gamma"), [(10, 0.5), (1001, 0.25), (3, 0.1)])
def test_green_list_has_its_size_and_depends_on_the_previous_token_alone(vocab_size, gamma):
    previous = torch.tensor([7, 8, 7, 1_000_000_000])
    green = green_list(previous, vocab_size=vocab_size, gamma=gamma)
    assert green.sum(dim=1).tolist() == [int(vocab_size * gamma)] * 4
    assert torch.equal(green[0], green[2])
    assert torch.equal(green[1:2], green_list(previous[1:2], vocab_size=vocab_size, gamma=gamma))
    if vocab_size > 100:
        assert not torch.equal(green[0], green[1])


def test_green_list_is_pinned():
    """A text that was marked must stay detectable: the list may never change."""
    green = green_list(torch.tensor([42]), vocab_size=16, gamma=0.5)
    assert green[0].nonzero().squeeze(1).tolist() == [0, 2, 5, 6, 7, 8, 9, 11]
