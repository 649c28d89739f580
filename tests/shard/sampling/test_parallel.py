"""Ranks that have a part of the scores each choose what one rank chooses from all of them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.ops.triton import library
from text_generation_shard.sampling import parallel
from text_generation_shard.sampling.parallel import ParallelSampler
from text_generation_shard.sampling.parameters import SamplingParameters
from text_generation_shard.sampling.rows import GrammarMask, SamplingRows
from text_generation_shard.sampling.sampler import SampledTokens, Sampler
from torch import Tensor

from tests.shard.ops_triton.interpreter import take_scalars_as_indices
from tests.shard.ranks import call_on_ranks
from tests.shard.sampling.rows import make_rows, pack_allowed

GRAMMAR = "grammar"
LISTED = "listed"
KINDS: dict[str, dict[str, object]] = {
    "greedy": {},
    "draw": {"do_sample": True},
    "temperature": {"do_sample": True, "temperature": 0.6},
    "tiny temperature": {"do_sample": True, "temperature": 1e-4},
    "temperature without a draw": {"temperature": 1.7},
    "penalties": {"repetition_penalty": 1.4, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    "drawn penalties": {"do_sample": True, "repetition_penalty": 0.7},
    "bias": {"logit_bias": ((2, 7.0), (9, -80.0))},
    "top-k": {"do_sample": True, "top_k": 5},
    "top-k of one": {"do_sample": True, "top_k": 1},
    "top-k of many": {"do_sample": True, "top_k": 700},
    "top-p": {"do_sample": True, "top_p": 0.7},
    "top-p of nearly all": {"do_sample": True, "top_p": 0.999},
    "min-p": {"do_sample": True, "min_p": 0.1},
    "tiny min-p": {"do_sample": True, "min_p": 1e-9},
    "chain": {"do_sample": True, "temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    "filtered penalties": {"do_sample": True, "top_p": 0.5, "frequency_penalty": 0.3},
    "filters without a draw": {"top_k": 3, "top_p": 0.8},
    "typical-p": {"do_sample": True, "typical_p": 0.6},
    "watermark": {"do_sample": True, "watermark": True},
    f"{GRAMMAR} greedy": {},
    f"{GRAMMAR} top-k": {"do_sample": True, "top_k": 4},
    f"{LISTED} greedy": {},
    f"{LISTED} draw": {"do_sample": True, "temperature": 0.9},
    f"{LISTED} top-k": {"do_sample": True, "top_k": 3},
}
SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda scores: scores * 2,
    "flat": lambda scores: scores * 0.01,
    "equal ones": lambda scores: scores.mul(2).round(),
    "few left": lambda scores: scores.where(scores > 2.3, -torch.inf),
}


@dataclass(frozen=True)
class Case:
    vocab_size: int
    spread: str
    kinds: tuple[str, ...]

    def logits(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.vocab_size)
        scores = torch.randn(len(self.kinds), self.vocab_size, generator=generator)
        scores[:, self.vocab_size // 2] = 2.5
        return SPREADS[self.spread](scores)

    def rows(self) -> SamplingRows:
        parameters = [
            SamplingParameters(seed=2**63 + 77 * row, **KINDS[kind])  # type: ignore[arg-type]
            for row, kind in enumerate(self.kinds)
        ]
        history = [(5 * row + 1) % self.vocab_size for row in range(9)]
        constrained = tuple(row for row, kind in enumerate(self.kinds) if GRAMMAR in kind)
        allowed = pack_allowed([range(1, self.vocab_size, 3)] * len(constrained), self.vocab_size)
        return replace(
            make_rows(
                parameters,
                prompts=[history[:4]] * len(parameters),
                outputs=[history[4:]] * len(parameters),
                grammar=GrammarMask(constrained, allowed) if constrained else None,
            ),
            constrained=constrained,
        )

    @property
    def top_n(self) -> list[int]:
        return [3 if LISTED in kind else 0 for kind in self.kinds]


ALL = tuple(KINDS)
CASES = [
    *(Case(size, spread, ALL) for size in (10, 333, 5003) for spread in SPREADS),
    *(Case(2001, "normal", (kind,)) for kind in KINDS),
]
# Scores that are not numbers, everywhere or in some part.
BROKEN = [float("nan"), float("inf")]
# Of which a rank gives away a few hundred numbers, or four.
FEW = ["greedy", "temperature", "penalties", "top-k", "top-p", "chain", "filters without a draw"]


def sampler_of(vocab_size: int) -> Sampler:
    return Sampler(vocab_size=vocab_size, watermark_gamma=0.5, watermark_delta=2.0)


def sample(
    ranks: RankGroup, logits: Tensor, rows: SamplingRows, top_n: Sequence[int]
) -> SampledTokens:
    vocab_size = logits.shape[1]
    part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, vocab_size)
    together = ParallelSampler(
        sampler_of(vocab_size), ranks, vocab_size=vocab_size, device=logits.device
    )
    if ranks.rank > 0:
        rows = replace(rows, grammar=None)
    return together(part.cut(logits, -torch.inf).clone(), rows, top_n)


def sample_all(ranks: RankGroup) -> list[SampledTokens]:
    """Every case, then the broken ones."""
    sampled = [sample(ranks, case.logits(), case.rows(), case.top_n) for case in CASES]
    return [
        *sampled,
        *(
            sample(ranks, broken(value), Case(50, "normal", FEW_KINDS).rows(), ())
            for value in BROKEN
        ),
    ]


FEW_KINDS = ("greedy", "temperature", "top-k", "draw", "typical-p")


def broken(value: float) -> Tensor:
    logits = Case(50, "normal", FEW_KINDS).logits()
    logits[:, 40] = value
    return logits


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_choose_what_one_would(world_size: int) -> None:
    answers = call_on_ranks(sample_all, world_size=world_size)
    for others in answers[1:]:
        for first, other in zip(answers[0], others, strict=True):
            assert torch.equal(first.token_ids, other.token_ids)
    for case, actual in zip(CASES, answers[0], strict=False):
        expected = sampler_of(case.vocab_size)(case.logits(), case.rows(), case.top_n)
        wrong = (actual.token_ids != expected.token_ids).nonzero().flatten().tolist()
        assert not wrong, (case, [case.kinds[row] for row in wrong])
        torch.testing.assert_close(
            actual.logprobs, expected.logprobs, rtol=1e-5, atol=2e-5, equal_nan=True, msg=str(case)
        )
        if expected.top_tokens is not None:
            assert actual.top_tokens is not None
            assert torch.equal(actual.top_tokens.counts, expected.top_tokens.counts)
            assert torch.equal(actual.top_tokens.token_ids, expected.top_tokens.token_ids)
            torch.testing.assert_close(
                actual.top_tokens.logprobs, expected.top_tokens.logprobs, rtol=1e-5, atol=2e-5
            )
    for answer in answers[0][len(CASES) :]:
        assert answer.logprobs.isnan().all()
        assert ((answer.token_ids >= 0) & (answer.token_ids < 50)).all()


def sample_by_kernels(ranks: RankGroup, cases: Sequence[Case]) -> list[SampledTokens]:
    """As on a GPU; this process is this rank's alone. Sizes at which the interpreter is quick."""
    from text_generation_shard.ops.triton import sample as kernels

    take_scalars_as_indices()
    library.takes = lambda _: True  # type: ignore[assignment]
    parallel._Abilities.of = lambda *_: parallel._Abilities(  # type: ignore[method-assign]
        parallel._CHOICE, frozenset()
    )
    kernels._TILE, kernels._SEARCH_TILE, kernels._CANDIDATES = 256, 256, 64  # type: ignore[misc]
    return [sample(ranks, case.logits(), case.rows(), case.top_n) for case in cases]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_choose_by_kernels_what_one_would(world_size: int) -> None:
    """Rows of all kinds, which are dealt out unevenly, and fewer rows than ranks."""
    cases = [
        Case(331, "normal", tuple(random.sample(ALL, 12))),
        Case(40, "few left", ("top-p", "typical-p", "filtered penalties")),
        Case(90, "flat", ("chain",)),
    ]
    answers = call_on_ranks(sample_by_kernels, cases, world_size=world_size)
    for place, case in enumerate(cases):
        expected = sampler_of(case.vocab_size)(case.logits(), case.rows(), case.top_n)
        for answer in answers:
            wrong = (answer[place].token_ids != expected.token_ids).nonzero().flatten().tolist()
            assert not wrong, (case, [case.kinds[row] for row in wrong])
        torch.testing.assert_close(
            answers[0][place].logprobs, expected.logprobs, rtol=1e-5, atol=2e-5, msg=str(case)
        )


class CountingRanks(RankGroup):
    """Counts the numbers that this rank gives away."""

    sent = 0

    def exchange_rows(self, part: Tensor) -> Tensor:
        self.sent += part.numel()
        return super().exchange_rows(part)

    def gather(self, own: Tensor) -> Tensor | None:
        self.sent += own.numel()
        return super().gather(own)

    def gather_everywhere(self, own: Tensor) -> Tensor:
        self.sent += own.numel()
        return super().gather_everywhere(own)


def numbers_sent(ranks: RankGroup, kinds: Sequence[str], vocab_size: int) -> list[int]:
    counts = []
    for kind in kinds:
        counting = CountingRanks(rank=ranks.rank, world_size=ranks.world_size)
        case = Case(vocab_size, "normal", (kind,))
        sample(counting, case.logits() * 2, case.rows(), case.top_n)
        counts.append(counting.sent)
    return counts


def test_logits_stay_where_they_are() -> None:
    """A few numbers where one token is looked for, a few hundred where a filter is, and a part of
    the vocabulary only where all tokens count: then token and log-probability come back.
    """
    kinds = [*FEW, "typical-p", "top-k of many"]
    counts = dict(
        zip(kinds, call_on_ranks(numbers_sent, kinds, 5000, world_size=2)[1], strict=True)
    )
    assert [counts[kind] for kind in FEW] == [4, 4, 4, 514, 514, 514, 514]
    assert counts["typical-p"] == 2500 + 2
    assert counts["top-k of many"] == 514 + 2500 + 2
