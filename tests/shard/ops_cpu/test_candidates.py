"""Tokens chosen from the best of each part of a vocabulary: those chosen from all, or none."""

import pytest
import torch
from text_generation_shard.ops.cpu.library import Operators
from torch import Tensor

COUNT = 256
PART, VOCAB_SIZE = 9_000, 20_000
ROWS = 12


def _scores(spread: str) -> Tensor:
    torch.manual_seed(0)
    scores = torch.randn(ROWS, VOCAB_SIZE)
    match spread:
        case "flat":
            return scores / 100
        case "far apart":  # what a tiny temperature leaves
            return scores * 50_000
        case "a few above all others":
            return torch.where(scores > 2.8, 1.0, scores / 100)
        case "few left":
            return scores.where(scores > 2.5, -torch.inf)
        case _:
            return scores * 3


SPREADS = ["normal", "flat", "far apart", "a few above all others", "few left"]
# Top-k, top-p, min-p: those for which the candidates among normal scores suffice, and others.
SHORT_FILTERS = [
    (1, 1.0, 0.0),
    (40, 1.0, 0.0),
    (40, 0.8, 0.0),
    (0, 0.3, 0.0),
    (0, 1.0, 0.3),
]
LONG_FILTERS = [
    (600, 0.5, 0.0),
    (0, 0.9, 0.0),
    (0, 0.999, 0.05),
    (VOCAB_SIZE, 0.7, 0.0),
]


@pytest.mark.parametrize("spread", SPREADS)
def test_none_better_than_the_bound_is_missing(operators: Operators, spread: str) -> None:
    scores = _scores(spread)
    for row, packet in zip(scores, operators.candidates(scores, 0, COUNT), strict=True):
        found, ids = packet[: 2 * COUNT].view(2, COUNT)
        known = ids[ids >= 0].long()
        assert torch.equal(row[known], found[ids >= 0])
        better = (row > packet[2 * COUNT]).nonzero().flatten()
        assert torch.isin(better, known).all()


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("draws", [True, False])
def test_the_choice_is_that_from_all(operators: Operators, spread: str, draws: bool) -> None:
    scores = _scores(spread)
    packets = torch.stack(
        [
            operators.candidates(scores[:, :PART], 0, COUNT),
            operators.candidates(scores[:, PART:], PART, COUNT),
        ]
    )
    for top_k, top_p, min_p in (*SHORT_FILTERS, *LONG_FILTERS):
        choice = (
            torch.full((ROWS,), top_k),
            torch.full((ROWS,), top_p),
            torch.full((ROWS,), min_p),
            torch.full((ROWS,), draws),
            torch.arange(ROWS),
            torch.arange(ROWS) * 5,
        )
        expected, expected_logprobs, _, _ = operators.sample(scores, torch.ones(ROWS), *choice, 0)
        token_ids, logprobs, _, failed = operators.choose(packets, *choice)
        chosen = [row for row in range(ROWS) if row not in failed]
        where = f"{spread}: top-k {top_k}, top-p {top_p}, min-p {min_p}"
        if spread == "normal" and (top_k, top_p, min_p) in SHORT_FILTERS:
            assert not failed, where
        assert torch.equal(token_ids[chosen], expected[chosen]), where
        torch.testing.assert_close(
            logprobs[chosen], expected_logprobs[chosen], rtol=1e-5, atol=2e-5, msg=where
        )
