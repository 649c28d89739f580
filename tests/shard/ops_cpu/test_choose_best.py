"""The greedy choice against torch."""

import pytest
import torch
from text_generation_shard.ops.cpu.operators import Operators


@pytest.mark.parametrize("size", [1, 5, 16, 33, 1000, 49152])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_greatest_score_and_its_logprob(operators: Operators, size: int, rows: int) -> None:
    torch.manual_seed(size)
    scores = torch.randn(rows, size + 3)[:, :size] * 5
    ids, logprobs, failed = operators.choose_best(scores)
    assert not failed
    assert torch.equal(ids, scores.argmax(dim=1))
    expected = scores.double().log_softmax(dim=1).gather(1, ids[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-5)


def test_equal_scores_go_to_the_lower_id(operators: Operators) -> None:
    scores = torch.zeros(1, 100)
    scores[0, [40, 41, 90]] = 2.0
    assert operators.choose_best(scores)[0].item() == 40


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 50, 99])
def test_what_is_no_number_is_left_to_torch(operators: Operators, value: float, place: int) -> None:
    scores = torch.randn(3, 100)
    scores[1, place] = value
    scores[2] = -float("inf")
    assert operators.choose_best(scores)[2] == [1, 2]


@pytest.mark.parametrize("place", [0, 50, 99])
def test_minus_infinity_is_a_score(operators: Operators, place: int) -> None:
    scores = torch.randn(1, 100)
    scores[0, place] = -float("inf")
    ids, logprobs, failed = operators.choose_best(scores)
    assert not failed
    assert torch.equal(ids, scores.argmax(dim=1))
    expected = scores.log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=1e-5)
