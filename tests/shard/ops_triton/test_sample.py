"""The sampler's kernels choose what the reference sampler chooses."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from text_generation_shard.ops.best_of_part import _by_kernels, _by_torch
from text_generation_shard.ops.triton import sample as kernels
from text_generation_shard.ops.triton.sample_bracket import survey_kernel
from text_generation_shard.ops.triton.sample_draw import random_words
from text_generation_shard.sampling import philox
from text_generation_shard.sampling import sampler as sampler_module
from text_generation_shard.sampling.parameters import SamplingParameters
from text_generation_shard.sampling.rows import GrammarMask, SamplingRows
from text_generation_shard.sampling.sampler import SampledTokens, Sampler
from torch import Tensor

from tests.shard.sampling.rows import make_rows, pack_allowed

Call = Callable[..., Any]
FILTERS = {
    "greedy": {"do_sample": False},
    "temperature": {"temperature": 0.7},
    "tiny temperature": {"temperature": 1e-4},
    "top-k": {"top_k": 5},
    "top-k of one": {"top_k": 1},
    "top-k beyond the vocabulary": {"top_k": 100_000},
    "top-p": {"top_p": 0.8},
    "top-p of nearly all": {"top_p": 0.9999999},
    "typical-p": {"typical_p": 0.5},
    "min-p": {"min_p": 0.1},
    "min-p of one": {"min_p": 1.0},
    "typical-p of nearly all": {"typical_p": 0.9999999},
    "chain": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.02},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.6},
    "repetition alone": {"repetition_penalty": 0.8, "top_p": 0.5},
    "bias": {"logit_bias": ((3, 5.0), (7, -100.0)), "top_k": 3},
}


SPREADS = {
    "normal": lambda shape: torch.randn(shape) * 3,
    # In steps that are wider than what float32 cannot tell apart of surprises.
    "flat": lambda shape: (torch.randn(shape) * 25).round() / 512,
    "even": lambda shape: torch.rand(shape) * 20,
    "peaked": lambda shape: -torch.rand(shape).log().neg().log() * 2,
    "far outliers": lambda shape: torch.randn(shape) + 90 * (torch.rand(shape) < 2e-3),
    "half masked": lambda shape: torch.randn(shape).where(torch.rand(shape) < 0.5, float("-inf")),
    "mostly masked": lambda shape: torch.randn(shape).where(torch.rand(shape) < 0.01, -torch.inf),
}


class Spy:
    """In place of the kernel that searches for thresholds: notes which rows need no search."""

    def __init__(self) -> None:
        self.is_settled: Tensor | None = None

    def __getitem__(self, _grid: object) -> Call:
        def note(*args: Any, **_: Any) -> None:
            self.is_settled = args[8]

        return note


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several tiles, and brackets that now and then hold too many: sizes at which the
    interpreter is quick.
    """
    monkeypatch.setattr(kernels, "_TILE", 512)
    monkeypatch.setattr(kernels, "_SEARCH_TILE", 256)
    monkeypatch.setattr(kernels, "_CANDIDATES", random.choice([16, 64]))


@triton.jit
def words_kernel(seeds, positions, words, TILE: tl.constexpr):  # noqa: N803
    row, tile = tl.program_id(0), tl.program_id(1)
    found = random_words(tl.load(seeds + row), tl.load(positions + row).to(tl.int32), tile, TILE)
    places = (row * tl.num_programs(1) + tile) * TILE + tl.arange(0, TILE)
    tl.store(words + places, found.to(tl.int64))


def both(
    by_kernel: Call, by_reference: Call, logits: Tensor, rows: SamplingRows
) -> tuple[SampledTokens, SampledTokens]:
    sampler = Sampler(vocab_size=logits.shape[1], watermark_gamma=0.5, watermark_delta=2.0)
    # Each changes what it is given.
    actual = by_kernel(sampler, logits.clone(), rows)
    return actual, by_reference(sampler, logits.clone(), rows)


def moved(rows: SamplingRows, device: torch.device) -> SamplingRows:
    from dataclasses import replace

    tensors = {
        name: getattr(rows, name).to(device)
        for name in rows.__slots__
        if isinstance(getattr(rows, name), Tensor)
    }
    biases = tuple(
        replace(bias, token_ids=bias.token_ids.to(device), values=bias.values.to(device))
        for bias in rows.logit_bias
    )
    grammar = rows.grammar and replace(rows.grammar, allowed=rows.grammar.allowed.to(device))
    return replace(rows, **tensors, logit_bias=biases, grammar=grammar)


def check_same(actual: SampledTokens, expected: SampledTokens) -> None:
    assert actual.token_ids.tolist() == expected.token_ids.tolist()
    torch.testing.assert_close(actual.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", list(FILTERS.values()), ids=list(FILTERS))
def test_same_tokens(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    options: dict[str, Any],
) -> None:
    """Fresh random scores, of which some fill a tile and a piece of the next; one row of two asks
    for nothing.
    """
    vocab_size = random.choice([33, 512, 700, 1100])
    parameters = [
        SamplingParameters(seed=1),
        SamplingParameters(**{"do_sample": True, **options}, seed=random.getrandbits(64)),
    ]
    prompts = [[random.randrange(33) for _ in range(9)] for _ in parameters]
    outputs = [[random.randrange(33) for _ in range(5)] for _ in parameters]
    rows = moved(make_rows(parameters, prompts=prompts, outputs=outputs), device)
    logits = torch.randn(len(parameters), vocab_size, device=device) * 3
    check_same(*both(by_kernel, by_reference, logits, rows))


class Surveys:
    """In place of the kernel that surveys a bracket: counts the rows that each one reads."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Call:
        def note(*args: Any, **options: Any) -> None:
            self.rows.append(int((args[8][:, 2] == 0).sum()))
            survey_kernel[grid](*args, **options)

        return note


@pytest.mark.parametrize("filtered", [{"top_p": 0.9}, {"typical_p": 0.9}], ids=str)
@pytest.mark.parametrize("spread", ["flat", "peaked"])
def test_two_surveys_are_enough(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    spread: str,
    filtered: dict[str, float],
) -> None:
    """A bracket is narrow enough when it holds few tokens itself, however many lie above."""
    surveys = Surveys()
    monkeypatch.setattr(kernels, "survey_kernel", surveys)
    monkeypatch.setattr(kernels, "_CANDIDATES", 128)
    parameters = [
        SamplingParameters(do_sample=True, seed=seed, **filtered)  # type: ignore[arg-type]
        for seed in range(2)
    ]
    rows = moved(make_rows(parameters), device)
    logits = SPREADS[spread]((len(parameters), 1500)).to(device)
    check_same(*both(by_kernel, by_reference, logits, rows))
    assert surveys.rows[0] == 2 and surveys.rows[2] == 0


def test_only_rows_that_list_others_are_sampled_by_torch(
    by_kernel: Call, by_reference: Call, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Top-n of rows with penalties, a bias, a mask and a watermark, beside rows without; one of
    these rows used to send all of them to torch's sorts.
    """
    vocab_size = 700
    drawn = {"do_sample": True, "top_k": 30}
    parameters = [
        SamplingParameters(**drawn, seed=1, watermark=True),
        SamplingParameters(**drawn, seed=2, watermark=True, repetition_penalty=1.7),
        SamplingParameters(**drawn, seed=3, frequency_penalty=0.9, logit_bias=((5, 4.0),)),
        SamplingParameters(do_sample=True, seed=4, logit_bias=((6, 2.0),), top_p=0.7),
        SamplingParameters(seed=5),
    ]
    top_n = [0, 3, 2, 0, 4]
    allowed = [[token for token in range(vocab_size) if random.random() < 0.5] for _ in range(2)]
    mask = GrammarMask((2, 3), pack_allowed(allowed, vocab_size))
    prompts = [[random.randrange(33) for _ in range(9)] for _ in parameters]
    rows = moved(make_rows(parameters, prompts=prompts, grammar=mask), device)
    logits = torch.randn(len(parameters), vocab_size, device=device) * 3
    sampler = Sampler(vocab_size=vocab_size, watermark_gamma=0.5, watermark_delta=2.0)
    expected = by_reference(sampler, logits.clone(), rows, top_n)
    by_torch = sampler_module._sample
    seen = []

    def note(scores: Tensor, *args: Any) -> SampledTokens:
        seen.append(len(scores))
        return by_torch(scores, *args)

    monkeypatch.setattr(sampler_module, "_sample", note)
    actual = by_kernel(sampler, logits.clone(), rows, top_n)
    assert seen == [3]
    check_same(actual, expected)
    one, other = actual.top_tokens, expected.top_tokens
    assert one is not None and other is not None
    assert one.counts.tolist() == other.counts.tolist() == top_n
    assert one.token_ids.tolist() == other.token_ids.tolist()
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3},
        {"top_p": 0.5},
        {"typical_p": 0.5},
        {"min_p": 0.9},
        {"top_k": 2, "top_p": 0.3},
        {"top_k": 20, "typical_p": 0.4},
        {"top_p": 0.9, "typical_p": 0.3, "min_p": 0.5},
    ],
    ids=str,
)
def test_equal_scores_stay_together(
    by_kernel: Call, by_reference: Call, device: torch.device, options: dict[str, Any]
) -> None:
    """Scores of which many are equal, zeros of both signs among them: a threshold keeps all."""
    values = torch.tensor([-1.0, -0.0, 0.0, 0.5, 2.0])
    logits = values[torch.randint(0, 5, (4, 60))].to(device)
    parameters = [SamplingParameters(do_sample=seed < 3, seed=seed, **options) for seed in range(4)]
    rows = moved(make_rows(parameters), device)
    check_same(*both(by_kernel, by_reference, logits, rows))


@pytest.mark.parametrize("spread", list(SPREADS))
def test_thresholds_without_a_search(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    spread: str,
) -> None:
    """Few scores lie in a bracket, however they are spread: no row is left to the search."""
    monkeypatch.setattr(kernels, "_CANDIDATES", 128)
    spy = Spy()
    monkeypatch.setattr(kernels, "cut_kernel", spy)
    options: list[dict[str, Any]] = [
        {"top_k": random.randrange(1, 60), "temperature": 0.6},
        {"top_p": random.uniform(0.1, 0.98)},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.01},
        {"min_p": 0.2, "temperature": 1.7},
        {"top_p": 0.9, "temperature": 1.2},
        {"typical_p": random.uniform(0.1, 0.98)},
        {"typical_p": 0.7, "temperature": 0.8, "min_p": 0.05},
        {"typical_p": 0.9, "top_k": 50, "top_p": 0.95, "temperature": 0.5, "min_p": 0.001},
        {"typical_p": 0.6, "top_p": 0.05},
        {},
    ]
    parameters = [
        SamplingParameters(do_sample=True, seed=random.getrandbits(64), **row) for row in options
    ]
    rows = moved(make_rows(parameters), device)
    logits = SPREADS[spread]((len(parameters), 1100)).to(device)
    check_same(*both(by_kernel, by_reference, logits, rows))
    assert spy.is_settled is not None and spy.is_settled.tolist() == [1] * len(parameters)


@pytest.mark.parametrize("spread", list(SPREADS))
def test_any_chain_of_filters(
    by_kernel: Call, by_reference: Call, device: torch.device, spread: str
) -> None:
    """With too many tokens for a bracket and with few, one filter after the other."""
    ranges: dict[str, Callable[[], float]] = {
        "temperature": lambda: random.uniform(0.3, 2.0),
        "top_k": lambda: random.choice([1, 3, 8, 30, 200]),
        "top_p": lambda: random.uniform(0.05, 0.99),
        "typical_p": lambda: random.uniform(0.05, 0.99),
        "min_p": lambda: random.uniform(0.0, 0.5) ** 3,
    }
    parameters = []
    for seed in range(4):
        chosen = {name: draw() for name, draw in ranges.items() if random.random() < 0.6}
        parameters.append(SamplingParameters(do_sample=True, seed=seed, **chosen))  # type: ignore[arg-type]
    rows = moved(make_rows(parameters), device)
    logits = SPREADS[spread]((len(parameters), 1100)).to(device)
    check_same(*both(by_kernel, by_reference, logits, rows))


def test_mask_of_some_rows(by_kernel: Call, by_reference: Call, device: torch.device) -> None:
    vocab_size = 70
    allowed = [[5, 31, 32, 69], [64]]
    grammar = GrammarMask((1, 3), pack_allowed(allowed, vocab_size))
    parameters = [SamplingParameters(do_sample=True, seed=seed, top_p=0.9) for seed in range(4)]
    rows = moved(make_rows(parameters, grammar=grammar), device)
    logits = torch.randn(4, vocab_size, device=device)
    actual, expected = both(by_kernel, by_reference, logits, rows)
    check_same(actual, expected)
    assert actual.token_ids[1].item() in allowed[0] and actual.token_ids[3].item() == 64


def test_scores_that_are_no_numbers(by_kernel: Call, device: torch.device) -> None:
    """The token means nothing, but is one; the log-probability says so."""
    logits = torch.full((2, 50), float("nan"), device=device)
    logits[1, 10:] = 1.0
    options = [SamplingParameters(), SamplingParameters(do_sample=True, top_p=0.5)]
    sampler = Sampler(vocab_size=50, watermark_gamma=0.5, watermark_delta=2.0)
    sampled = by_kernel(sampler, logits, moved(make_rows(options), device))
    assert sampled.logprobs.isnan().all()
    assert ((sampled.token_ids >= 0) & (sampled.token_ids < 50)).all()


def test_no_rows(by_kernel: Call, device: torch.device) -> None:
    from text_generation_shard.ops.triton.sample import Draws, sample

    empty = torch.empty(0, device=device)
    draws = Draws(temperature=empty, is_drawn=empty, seeds=empty.long(), positions=empty.long())
    token_ids, logprobs = by_kernel(sample, torch.empty(0, 20, device=device), draws)
    assert token_ids.shape == logprobs.shape == (0,)


def test_random_words_are_the_references(device: torch.device) -> None:
    """All 32 bits of the words of a draw, for seeds and positions of any size."""
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345, random.getrandbits(63)], device=device)
    positions = torch.tensor([0, 7, 131071, 2**31 - 1, 1], device=device)
    words = torch.zeros(5, 128, dtype=torch.int64, device=device)
    words_kernel[(5, 2)](seeds, positions, words, TILE=64)
    expected = philox.vocabulary_words(seeds, positions, vocab_size=128, stream=philox.Stream.DRAW)
    assert torch.equal(words, expected)


@pytest.mark.parametrize("first_id", [0, 100_004])
def test_the_best_of_a_part(device: torch.device, first_id: int) -> None:
    """Parts with equal best scores, without a token, and whose noise begins in the vocabulary."""
    logits = torch.randn(7, 700, device=device) * 3
    logits[1, [40, 650]] = 30.0
    logits[2] = float("-inf")
    draws = torch.tensor([True, False, True, True, True, False, True], device=device)
    seeds = torch.tensor([random.getrandbits(63) for _ in draws], device=device)
    places = torch.arange(len(draws), device=device) * 1000
    actual, expected = (
        call(logits, draws, seeds, places, first_id) for call in (_by_kernels, _by_torch)
    )
    assert first_id <= int(actual.token_ids[2]) < first_id + 700
    is_some = torch.arange(7) != 2
    assert actual.token_ids[is_some].tolist() == expected.token_ids[is_some].tolist()
    for name in ("scores", "values", "log_sums"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), atol=1e-5, rtol=1e-5
        )
