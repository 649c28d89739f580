"""From the scores of the last hidden states to token ids and their log-probabilities.

The order is the contract's: logit bias, watermark, repetition, frequency and presence, grammar
mask, temperature, top-k, top-p, typical-p, min-p; then the most likely token, or a draw. A reported
log-probability is the log-softmax of the scores after all of that.

A draw is the largest of score + Gumbel noise, which is exactly a draw from the softmax of the
scores (Gumbel-max). The noise depends on (seed, position, token id) alone, and every processor
looks at one row at a time: what else is in the batch changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from text_generation_shard.ops.choose_best import choose_best
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.ops.token_masks import mask_scores
from text_generation_shard.sampling import filters, fused, native, penalties, philox
from text_generation_shard.sampling.parameters import FILTERS, Processor
from text_generation_shard.sampling.rows import SamplingRows
from text_generation_shard.sampling.top_n import TopTokens, most_likely

# Above this share of the vocabulary it is cheaper to make noise for all of it: four neighbouring
# tokens share the four words of one counter.
_MAX_CANDIDATE_SHARE = 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """The outcome for every row, on the device of the logits."""

    # int64 [rows]
    token_ids: Tensor
    # float32 [rows]; NaN if the model's scores were not numbers
    logprobs: Tensor
    # None if no row asked for them
    top_tokens: TopTokens | None


class TokenSampler(Protocol):
    """What the engine needs: a `Sampler`, or what ranks do together in its place."""

    def __call__(
        self, logits: Tensor, rows: SamplingRows, top_n: Sequence[int] = ()
    ) -> SampledTokens:
        """Sample one token per row."""


class Sampler:
    """Chooses one token per row; has no state but the watermark's two numbers."""

    def __init__(self, *, vocab_size: int, watermark_gamma: float, watermark_delta: float) -> None:
        self._vocab_size = vocab_size
        self._gamma = watermark_gamma
        self._delta = watermark_delta

    def for_tokens(self, vocab_size: int) -> "Sampler":
        """The same for another number of tokens."""
        return Sampler(
            vocab_size=vocab_size, watermark_gamma=self._gamma, watermark_delta=self._delta
        )

    def __call__(
        self, logits: Tensor, rows: SamplingRows, top_n: Sequence[int] = ()
    ) -> SampledTokens:
        """Sample one token per row.

        logits: float32 [rows, vocab]; the caller gives them up: processors change them in place.
        top_n: how many of the most likely tokens are reported for each row, 0 for none; empty means
        none for all rows.
        """
        assert logits.dtype == torch.float32 and logits.shape[1] == self._vocab_size
        change = _RowChanges(logits)
        self._mark(change, rows)
        if fused.can_sample(change.scores):
            return self._by_kernels(change.scores, rows, top_n)
        return self.choose(self._change(change, rows), rows, top_n)

    def change(self, logits: Tensor, rows: SamplingRows) -> Tensor:
        """The first half, all that changes single scores, in the contract's order: bias, watermark,
        penalties, grammar. May change what is given.
        """
        change = _RowChanges(logits)
        self._mark(change, rows)
        return self._change(change, rows)

    def choose(
        self, scores: Tensor, rows: SamplingRows, top_n: Sequence[int] = ()
    ) -> SampledTokens:
        """The second half: temperature, filters and the choice among changed scores."""
        by_torch = native.rows_left(scores, rows, top_n)
        if len(by_torch) == len(scores):
            return _sample(scores, rows, top_n)
        token_ids, logprobs, failed = native.sample(scores, rows)
        left = sorted({*by_torch, *failed})
        top_tokens = None
        if left:
            others = _sample(scores, replace(rows, features=rows.features.among(left)), top_n)
            index = torch.tensor(left)
            token_ids[index], logprobs[index] = others.token_ids[index], others.logprobs[index]
            top_tokens = others.top_tokens
        return SampledTokens(token_ids=token_ids, logprobs=logprobs, top_tokens=top_tokens)

    def compile_kernels(self, rows: SamplingRows) -> None:
        """Where kernels sample, compile all that serving may need. rows: one, which asks for
        nothing.
        """
        if fused.can_sample(rows.seeds):
            fused.compile_all(rows, self._vocab_size)

    def _by_kernels(
        self, scores: Tensor, rows: SamplingRows, top_n: Sequence[int]
    ) -> SampledTokens:
        """By the kernels, and rows whose other tokens are reported by torch once more.

        scores: after bias and watermark.
        """
        token_ids, logprobs = fused.sample(scores, rows)
        listed = [row for row, count in enumerate(top_n) if count]
        if not listed:
            return SampledTokens(token_ids=token_ids, logprobs=logprobs, top_tokens=None)
        index = to_device(torch.tensor(listed), scores.device)
        own = rows.among(listed)
        changed = self._change(_RowChanges(scores.index_select(0, index)), own)
        others = _sample(changed, own, [top_n[row] for row in listed])
        assert others.top_tokens is not None
        return SampledTokens(
            token_ids=token_ids.index_copy(0, index, others.token_ids),
            logprobs=logprobs.index_copy(0, index, others.logprobs),
            top_tokens=others.top_tokens.of_rows(index, len(scores)),
        )

    def _mark(self, change: "_RowChanges", rows: SamplingRows) -> None:
        """Bias and watermark."""

        def watermark(scores: Tensor, index: Tensor) -> Tensor:
            last = rows.lengths[index, None] - 1
            previous = rows.histories(index).gather(1, last).squeeze(1)
            green = penalties.green_list(previous, vocab_size=self._vocab_size, gamma=self._gamma)
            return scores + green * self._delta

        for bias in rows.logit_bias:
            change.scores[bias.row].index_add_(0, bias.token_ids, bias.values)
        change.apply(rows.features.needing(Processor.WATERMARK), watermark)

    def _change(self, change: "_RowChanges", rows: SamplingRows) -> Tensor:
        """What else changes single scores, in the contract's order: penalties, grammar."""
        if native.can_change(change.scores):
            native.change(change.scores, rows)
            return change.scores
        self._penalise(change, rows)
        if rows.grammar is not None:
            mask_scores(change.scores, rows.grammar.rows, rows.grammar.allowed)
        return change.scores

    def _penalise(self, change: "_RowChanges", rows: SamplingRows) -> None:
        """Repetition, frequency and presence."""
        features, vocab_size = rows.features, self._vocab_size

        def repetition(scores: Tensor, index: Tensor) -> Tensor:
            ends = rows.lengths[index]
            seen = penalties.seen_counts(
                rows.histories(index), torch.zeros_like(ends), ends, vocab_size=vocab_size
            )
            return penalties.penalise_repetition(scores, seen, rows.repetition_penalty[index])

        def frequency(scores: Tensor, index: Tensor) -> Tensor:
            starts, ends = rows.output_starts[index], rows.lengths[index]
            history = rows.histories(index)
            counts = penalties.seen_counts(history, starts, ends, vocab_size=vocab_size)
            return penalties.penalise_frequency(
                scores, counts, rows.frequency_penalty[index], rows.presence_penalty[index]
            )

        change.apply(features.needing(Processor.REPETITION), repetition)
        change.apply(features.needing(Processor.FREQUENCY), frequency)


def _sample(scores: Tensor, rows: SamplingRows, top_n: Sequence[int]) -> SampledTokens:
    """The rest of the pipeline in torch; scores: after penalties and masks; may be changed."""
    scores = _filter(scores, rows)
    token_ids, logprobs = choose_best(scores)
    _draw_rows(token_ids, scores, rows)
    # What is reported beside other tokens comes from where theirs come from, to the last bit.
    listed = [row for row, count in enumerate(top_n) if count]
    others = sorted({*rows.features.needing(Processor.DRAW), *listed})
    top_tokens = None
    if others:
        index = to_device(torch.tensor(others), scores.device)
        all_logprobs = scores.log_softmax(dim=1) if listed else scores[index].log_softmax(dim=1)
        chosen = all_logprobs[index] if listed else all_logprobs
        logprobs[index] = chosen.gather(1, token_ids[index, None]).squeeze(1)
        top_tokens = most_likely(all_logprobs, top_n) if listed else None
    return SampledTokens(token_ids=token_ids, logprobs=logprobs, top_tokens=top_tokens)


class _RowChanges:
    """Scores, float32 [rows, vocab], that are changed a few rows at a time; owns them."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def apply(self, rows: tuple[int, ...], change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace some rows by change(their scores, their indices int64 [len(rows)])."""
        if not rows:
            return
        index = to_device(torch.tensor(rows), self.scores.device)
        if len(rows) == len(self.scores):
            self.scores = change(self.scores, index)
        else:
            self.scores.index_copy_(0, index, change(self.scores[index], index))


def divide_in_place(scores: Tensor, temperature: Tensor, best: Tensor) -> Tensor:
    """scores / temperature, up to a constant per row that keeps tiny temperatures finite.

    scores: float32 [rows, any]. temperature: float32 [rows]. best: [rows], the greatest score of
    the row, which may lie elsewhere.
    """
    return scores.sub_(best[:, None]).div_(temperature[:, None])


def _filter(scores: Tensor, rows: SamplingRows) -> Tensor:
    """Temperature, top-k, top-p, typical-p and min-p; may change what is given."""
    features = rows.features
    change = _RowChanges(scores)
    change.apply(
        features.needing(Processor.TEMPERATURE),
        lambda scores, index: divide_in_place(scores, rows.temperature[index], scores.amax(dim=1)),
    )
    change.apply(
        features.needing(Processor.TOP_K),
        lambda scores, index: filters.keep_top_k(
            scores, rows.top_k[index], max_top_k=features.max_top_k
        ),
    )
    change.apply(
        features.needing(Processor.TOP_P),
        lambda scores, index: filters.keep_top_p(scores, rows.top_p[index]),
    )
    change.apply(
        features.needing(Processor.TYPICAL_P),
        lambda scores, index: filters.keep_typical_p(scores, rows.typical_p[index]),
    )
    change.apply(
        features.needing(Processor.MIN_P),
        lambda scores, index: filters.keep_min_p(scores, rows.min_p[index]),
    )
    return change.scores


def _draw_rows(token_ids: Tensor, scores: Tensor, rows: SamplingRows) -> None:
    """Put drawn tokens in the place of the best ones, for the rows that draw; of equal ones the
    lower id. token_ids: int64 [rows], changed; scores: float32 [rows, vocab].
    """
    drawing = rows.features.needing(Processor.DRAW)
    if not drawing:
        return
    index = to_device(torch.tensor(drawing), scores.device)
    drawn = _draw(scores[index], rows.seeds[index], rows.positions[index], _are_few(rows, drawing))
    token_ids.index_copy_(0, index, drawn)


def _are_few(rows: SamplingRows, drawing: tuple[int, ...]) -> bool:
    """Whether every row that draws is filtered or masked, so that few tokens may be left."""
    filtered = set().union(*(rows.features.needing(processor) for processor in FILTERS))
    masked = () if rows.grammar is None else rows.grammar.rows
    return filtered.union(masked).issuperset(drawing)


def _draw(scores: Tensor, seeds: Tensor, positions: Tensor, are_few: bool) -> Tensor:
    """Gumbel-max over the tokens that are left; int64 [rows].

    On CPU, noise is made for the tokens left only, where these are few. Elsewhere to count them
    would make the device wait.
    """
    vocab_size = scores.shape[1]
    if are_few and scores.device.type == "cpu":
        row, token_ids = (scores > filters.REMOVED).nonzero(as_tuple=True)
        if len(row) <= _MAX_CANDIDATE_SHARE * scores.numel():
            noise = philox.token_gumbel(seeds[row], positions[row], token_ids)
            noisy = torch.full_like(scores, filters.REMOVED)
            noisy[row, token_ids] = scores[row, token_ids] + noise
            return noisy.argmax(dim=1)
    noise = philox.vocabulary_gumbel(seeds, positions, vocab_size=vocab_size)
    return noise.add_(scores).argmax(dim=1)
