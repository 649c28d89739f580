"""Sampling where every rank has the scores of a part of the vocabulary, and none has all of them.

What changes single scores (bias, penalties) needs only the token ids of the part. Noise depends on
the token, not on who computes it. So ranks need not exchange logits; what they do, each row by what
it asks for:

    best         the greatest score, with noise or without it, is the greatest of the parts': each
                 gives its best one and its share of the softmax, four numbers, and all compare
    candidates   a filter (top-k, top-p, min-p) looks at the best tokens: each part gives its own to
                 rank 0, and what all of the part weigh together, of which top-p wants a share
    shares       the rows are dealt out: each rank gets all scores of its share of them, samples
                 these as one rank would, and tells the tokens. So go typical-p, which cuts at both
                 ends; watermarks, whose list is one of the whole vocabulary; rows whose candidates
                 did not suffice; and on a GPU all rows with filters or penalties
    logits       all scores go to rank 0: grammars, whose masks it has, and lists of the most likely
                 tokens, which it reports

Candidates suffice if the filters cut above a bound, the greatest of the parts' least candidates:
above it all tokens are among them.

    part 0   9.1  7.0  6.2 | ...        bound 6.2: a cut at 7.0 keeps what is known; one at 6.2 may
    part 1   8.4  5.5  5.1 | ...        miss a token of the same score

That is known from the values, for which a GPU would have to be waited; and its kernels know whole
rows. There shares are part of a step's graph. What they cost, and why not less is exchanged, is in
docs/notes/sampling-and-gpu.md.

The token is the one that one rank would choose from the gathered logits: by comparing the same
numbers. Only a log-probability, and where exactly top-p cuts, come from a sum in another order.
Which way a row goes is told by the step alone, so that all ranks take it together; what depends on
values rank 0 decides, and tells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.ops.best_of_part import best_of_part
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.sampling import native
from text_generation_shard.sampling.parameters import Processor
from text_generation_shard.sampling.rows import SamplingRows
from text_generation_shard.sampling.sampler import SampledTokens, Sampler, divide_in_place
from text_generation_shard.sampling.top_n import TopTokens

_CHOICE = frozenset({Processor.TEMPERATURE, Processor.DRAW})
_PENALTIES = frozenset({Processor.REPETITION, Processor.FREQUENCY})
_SHORT_FILTERS = frozenset({Processor.TOP_K, Processor.TOP_P, Processor.MIN_P})
# Of each part: most top-p cuts lie among so many.
_NUM_CANDIDATES = 256
# An id travels as a float32, which holds integers up to here.
_MAX_VOCAB_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class _Abilities:
    """What a row may ask for to go a way; any other goes as a share."""

    best: frozenset[Processor]
    candidates: frozenset[Processor]

    @classmethod
    def of(cls, ranks: RankGroup, device: torch.device) -> "_Abilities":
        """All ranks ask together: they must agree."""
        if device.type != "cpu":
            return cls(_CHOICE, frozenset())
        is_native = ranks.minimum(native_operators(torch.empty(0, device=device)) is not None) > 0
        best = _CHOICE | _PENALTIES
        return cls(best, best | _SHORT_FILTERS if is_native else frozenset())


@dataclass(frozen=True, slots=True)
class _Ways:
    """The rows that go each way, ascending."""

    best: tuple[int, ...]
    candidates: tuple[int, ...]
    shares: tuple[int, ...]
    logits: tuple[int, ...]

    @classmethod
    def of(cls, rows: SamplingRows, top_n: Sequence[int], abilities: "_Abilities") -> "_Ways":
        """By what the host knows, which is the same on all ranks."""
        asked: list[set[Processor]] = [set() for _ in range(len(rows.seeds))]
        for processor, found in rows.features.rows.items():
            for row in found:
                asked[row].add(processor)
        ways: dict[str, list[int]] = {"best": [], "candidates": [], "shares": [], "logits": []}
        for row, processors in enumerate(asked):
            if row in rows.constrained or (top_n and top_n[row]):
                way = "logits"
            elif processors <= abilities.best:
                way = "best"
            else:
                way = "candidates" if processors <= abilities.candidates else "shares"
            ways[way].append(row)
        return cls(**{way: tuple(found) for way, found in ways.items()})


class ParallelSampler:
    """A rank's end of the sampler; called like a `Sampler`, by all ranks alike."""

    def __init__(
        self, sampler: Sampler, ranks: RankGroup, *, vocab_size: int, device: torch.device
    ) -> None:
        """sampler: for the whole vocabulary. All ranks make theirs at the same time."""
        assert vocab_size <= _MAX_VOCAB_SIZE
        self._sampler = sampler
        self._ranks = ranks
        self._vocab_size = vocab_size
        self._part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, vocab_size)
        self._abilities = _Abilities.of(ranks, device)
        self._part_sampler = sampler.for_tokens(self._part.size)

    def __call__(
        self, logits: Tensor, rows: SamplingRows, top_n: Sequence[int] = ()
    ) -> SampledTokens:
        """Sample one token per row; ids are equal on all ranks, the rest is known on rank 0.

        logits: float32 [rows, part], -inf for what is no token; given up as to a `Sampler`.
        """
        ways = _Ways.of(rows, top_n, self._abilities)
        outcomes = [
            (chosen, self._sample(way, chosen, logits, rows, top_n))
            for chosen, way in (
                (ways.best, self._by_best),
                (ways.candidates, self._by_candidates),
                (ways.shares, self._by_shares),
                (ways.logits, self._by_logits),
            )
            if chosen
        ]
        return outcomes[0][1] if len(outcomes) == 1 else _joined(outcomes, logits)

    def compile_kernels(self, rows: SamplingRows) -> None:
        """Where kernels choose among the part's tokens, compile them. rows: one."""
        scores = torch.zeros(1, self._part.size, device=rows.seeds.device)
        best_of_part(scores, rows.draws, rows.seeds, rows.positions, first_id=self._part.start)

    def _sample(
        self,
        way: Callable[[Tensor, SamplingRows, Sequence[int]], SampledTokens],
        chosen: tuple[int, ...],
        part: Tensor,
        rows: SamplingRows,
        top_n: Sequence[int],
    ) -> SampledTokens:
        """Some rows, one way."""
        if len(chosen) == len(part):
            return way(part, rows, top_n)
        index = torch.tensor(chosen, device=part.device)
        listed = [top_n[row] for row in chosen] if any(top_n) else ()
        return way(part[index], rows.among(chosen), listed)

    def _by_best(self, part: Tensor, rows: SamplingRows, _: Sequence[int]) -> SampledTokens:
        scores = self._tempered(self._changed(part, rows), rows)
        own = best_of_part(
            scores, rows.draws, rows.seeds, rows.positions, first_id=self._part.start
        )
        packet = torch.stack([own.values, own.scores, own.log_sums, own.token_ids.float()])
        values, scores, log_sums, ids = self._ranks.gather_everywhere(packet).unbind(1)
        # [ranks, rows] each. Not a number is not equal to itself: then any token will do.
        is_best = values == values.amax(dim=0)
        last = torch.full_like(ids, self._vocab_size - 1)
        token_ids = torch.where(is_best, ids, last).amin(dim=0)
        score = torch.where(is_best & (ids == token_ids), scores, float("-inf")).amax(dim=0)
        return SampledTokens(
            token_ids=token_ids.long(),
            logprobs=score - log_sums.logsumexp(dim=0),
            top_tokens=None,
        )

    def _by_candidates(self, part: Tensor, rows: SamplingRows, _: Sequence[int]) -> SampledTokens:
        scores = self._tempered(self._changed(part, rows), rows)
        packets = self._ranks.gather(
            native.candidates(scores, first_id=self._part.start, count=_NUM_CANDIDATES)
        )
        sampled = _nothing(part)
        if packets is not None:
            token_ids, logprobs, failed = native.choose(packets, rows)
            token_ids[failed] = -1
            sampled = SampledTokens(token_ids=token_ids, logprobs=logprobs, top_tokens=None)
        self._ranks.broadcast(sampled.token_ids)
        short = (sampled.token_ids < 0).nonzero().squeeze(1)
        if len(short):
            tempered = replace(
                rows,
                temperature=torch.ones_like(rows.temperature),
                features=rows.features.without(Processor.TEMPERATURE),
            )
            again = self._sample(self._by_scores, tuple(short.tolist()), scores, tempered, ())
            sampled.token_ids[short], sampled.logprobs[short] = again.token_ids, again.logprobs
        return sampled

    def _by_shares(self, part: Tensor, rows: SamplingRows, _: Sequence[int]) -> SampledTokens:
        return self._dealt(self._sampler, part, rows)

    def _by_scores(self, scores: Tensor, rows: SamplingRows, _: Sequence[int]) -> SampledTokens:
        """What `_by_shares` does, after the changes."""
        return self._dealt(self._sampler.choose, scores, rows)

    def _dealt(
        self,
        sample: Callable[[Tensor, SamplingRows], SampledTokens],
        part: Tensor,
        rows: SamplingRows,
    ) -> SampledTokens:
        """Every rank samples its share of the rows; ids and log-probabilities go to all."""
        own = self._ranks.row_share(len(part))
        scores = self._ranks.exchange_rows(part)[:, : self._vocab_size]
        # Of one size on all ranks, that of the first one's share.
        packet = part.new_zeros(len(self._ranks.row_share(len(part), 0)), 2)
        if own:
            sampled = sample(scores, rows.share(own))
            packet[: len(own), 0], packet[: len(own), 1] = sampled.token_ids, sampled.logprobs
        token_ids, logprobs = self._ranks.gather_everywhere(packet).flatten(0, 1)[: len(part)].T
        return SampledTokens(token_ids=token_ids.long(), logprobs=logprobs, top_tokens=None)

    def _by_logits(self, part: Tensor, rows: SamplingRows, top_n: Sequence[int]) -> SampledTokens:
        logits = self._ranks.gather_columns(part)
        sampled = _nothing(part)
        if logits is not None:
            sampled = self._sampler(logits[:, : self._vocab_size], rows, top_n)
        self._ranks.broadcast(sampled.token_ids)
        return sampled

    def _changed(self, part: Tensor, rows: SamplingRows) -> Tensor:
        """Bias and penalties, of the part's tokens."""
        is_penalised = any(map(rows.features.needing, _PENALTIES))
        if not is_penalised and not rows.logit_bias:
            return part
        return self._part_sampler.change(part, rows.within(self._part))

    def _tempered(self, scores: Tensor, rows: SamplingRows) -> Tensor:
        """The scores of rows with a temperature divided by it, as one rank would."""
        if not rows.features.needing(Processor.TEMPERATURE):
            return scores
        best = self._ranks.largest(scores.amax(dim=1))
        # Without a temperature they stay as they are: x - 0 is x, and so is x / 1.
        best.masked_fill_(rows.temperature == 1, 0)
        return divide_in_place(scores, rows.temperature, best)


def _nothing(part: Tensor) -> SampledTokens:
    """Room for ids; no log-probabilities."""
    token_ids = torch.empty(len(part), dtype=torch.int64, device=part.device)
    return SampledTokens(
        token_ids=token_ids, logprobs=part.new_full((len(part),), float("nan")), top_tokens=None
    )


def _joined(
    outcomes: Sequence[tuple[tuple[int, ...], SampledTokens]], part: Tensor
) -> SampledTokens:
    """All rows, from some and some others."""
    sampled = _nothing(part)
    top_tokens: TopTokens | None = None
    for rows, outcome in outcomes:
        index = torch.tensor(rows, dtype=torch.int64, device=part.device)
        sampled.token_ids[index] = outcome.token_ids
        sampled.logprobs[index] = outcome.logprobs
        # All rows with a list go the same way.
        if outcome.top_tokens is not None:
            top_tokens = outcome.top_tokens.of_rows(index, len(part))
    return replace(sampled, top_tokens=top_tokens)
