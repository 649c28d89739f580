"""Filters and draws in one pass against those in torch."""

import pytest
import torch
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.sampling import filters, philox

POSITIONS = torch.tensor([0, 7, 100_000])
SEEDS = torch.tensor([1, -5, 1 << 40])
# Temperature, top-k, top-p, min-p
FILTERS = [
    (1.0, 0, 1.0, 0.0),
    (0.3, 0, 1.0, 0.0),
    (1.7, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (0.7, 40, 1.0, 0.0),
    (1.0, 10_000, 1.0, 0.0),
    (1.0, 0, 0.05, 0.0),
    (1.3, 0, 0.9, 0.0),
    (1.0, 0, 0.999, 0.0),
    (1.0, 0, 1.0, 0.2),
    (0.8, 300, 0.95, 0.01),
]


def _sample(
    operators: Operators,
    scores: torch.Tensor,
    *,
    temperature: float = 1,
    top_k: int = 0,
    top_p: float = 1,
    min_p: float = 0,
    draws: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    rows = len(scores)
    token_ids, logprobs, _, failed = operators.sample(
        scores,
        torch.full((rows,), float(temperature)),
        torch.full((rows,), top_k),
        torch.full((rows,), float(top_p)),
        torch.full((rows,), float(min_p)),
        torch.full((rows,), draws),
        SEEDS[torch.arange(rows) % 3],
        POSITIONS[torch.arange(rows) % 3] + torch.arange(rows),
        0,
    )
    return token_ids, logprobs, failed


def _expected(
    scores: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of draws and all log-probabilities."""
    rows, vocab_size = scores.shape
    if temperature != 1:
        scores = (scores - scores.amax(dim=1, keepdim=True)) / temperature
    if top_k:
        scores = filters.keep_top_k(scores, torch.full((rows,), top_k), max_top_k=top_k)
    if top_p < 1:
        scores = filters.keep_top_p(scores, torch.full((rows,), top_p))
    if min_p > 0:
        scores = filters.keep_min_p(scores, torch.full((rows,), min_p))
    places = torch.arange(rows)
    noise = philox.vocabulary_gumbel(
        SEEDS[places % 3], POSITIONS[places % 3] + places, vocab_size=vocab_size
    )
    return (scores + noise).argmax(dim=1), scores.log_softmax(dim=1)


@pytest.mark.parametrize("size", [1, 5, 333, 6001])
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_draws_what_the_reference_draws(operators: Operators, size: int, spread: float) -> None:
    torch.manual_seed(size)
    scores = (torch.randn(9, size + 2) * spread)[:, :size]
    scores[0, : size // 3] = -float("inf")
    for temperature, top_k, top_p, min_p in FILTERS:
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        expected, logprobs = _expected(scores, **options)
        ids, found, failed = _sample(operators, scores, **options)
        assert not failed
        assert torch.equal(ids, expected), options
        chosen = logprobs.gather(1, ids[:, None]).squeeze(1)
        torch.testing.assert_close(found, chosen, rtol=1e-5, atol=2e-5, msg=str(options))


def test_large_scores_and_many_draws(operators: Operators) -> None:
    torch.manual_seed(3)
    scores = torch.randn(300, 1000) * 3 + 5000
    assert torch.equal(_sample(operators, scores)[0], _expected(scores, 1, 0, 1, 0)[0])


@pytest.mark.parametrize("temperature", [1e30, 1e37, 3.4e38])
def test_a_temperature_may_leave_hardly_any_differences(
    operators: Operators, temperature: float
) -> None:
    torch.manual_seed(5)
    scores = torch.randn(9, 6001)
    for top_k, top_p in ((0, 0.9), (2000, 0.5)):
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": 0.0}
        ids, found, failed = _sample(operators, scores, **options)
        _, logprobs = _expected(scores, **options)
        assert not failed
        chosen = logprobs.gather(1, ids[:, None]).squeeze(1)
        torch.testing.assert_close(found, chosen, rtol=1e-5, atol=1e-3, msg=str(options))


def test_without_a_draw_the_best_is_chosen(operators: Operators) -> None:
    scores = torch.randn(4, 500)
    scores[1, 30] = scores[1, 31] = 9.0
    ids, logprobs, _ = _sample(operators, scores, temperature=0.5, top_k=2, draws=False)
    assert torch.equal(ids, scores.argmax(dim=1))
    assert ids[1] == 30
    torch.testing.assert_close(logprobs[1].exp(), torch.tensor(0.5))


def test_equal_scores_at_the_cut_are_all_kept(operators: Operators) -> None:
    scores = torch.full((600, 40), -1.0)
    scores[:, [3, 17, 21]] = 2.0
    for options in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}):
        assert _sample(operators, scores, **options)[0].unique().tolist() == [3, 17, 21]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_left_to_torch(operators: Operators, value: float) -> None:
    scores = torch.randn(3, 100)
    scores[1, 50] = value
    scores[2] = -float("inf")
    assert _sample(operators, scores)[2] == [1, 2]


def test_rows_depend_on_nothing_but_themselves(operators: Operators) -> None:
    scores = torch.randn(6, 5000)
    ids, logprobs, _ = _sample(operators, scores, temperature=0.8, top_p=0.95)
    for row in range(0, 6, 3):  # rows whose seed and position are those of the first
        alone = operators.sample(
            scores[row : row + 1],
            torch.tensor([0.8]),
            torch.tensor([0]),
            torch.tensor([0.95]),
            torch.tensor([0.0]),
            torch.tensor([True]),
            SEEDS[:1],
            POSITIONS[:1] + row,
            0,
        )
        assert torch.equal(alone[0], ids[row : row + 1])
        assert torch.equal(alone[1], logprobs[row : row + 1])


@pytest.mark.parametrize("split", [4, 3000, 4996])
def test_noise_of_a_part_is_that_of_its_tokens(operators: Operators, split: int) -> None:
    torch.manual_seed(split)
    scores = torch.randn(60, 5000)
    draws = torch.arange(60) % 4 > 0
    expected = _parts(operators, scores, draws, 0)
    first, second = (
        _parts(operators, part, draws, start)
        for start, part in ((0, scores[:, :split]), (split, scores[:, split:]))
    )
    is_first = first[1] >= second[1]
    assert torch.equal(torch.where(is_first, first[0], second[0] + split), expected[0])
    assert torch.equal(torch.where(is_first, first[1], second[1]), expected[1])
    assert split < 3000 or is_first[draws].any()


def _parts(
    operators: Operators, scores: torch.Tensor, draws: torch.Tensor, first_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids within the part, and their scores with noise."""
    ones, none = torch.ones(len(scores)), torch.zeros(len(scores), dtype=torch.int64)
    seeds, positions = torch.arange(len(scores)) - 7, torch.arange(len(scores)) * 3
    ids, _, values, failed = operators.sample(
        scores, ones, none, ones, torch.zeros_like(ones), draws, seeds, positions, first_id
    )
    assert not failed
    return ids, values
