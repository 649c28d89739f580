"""The sampler's pipeline as two C++ operators: what changes single scores; and temperature,
filters, draw, also from the best scores of every part of the vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.cpu.operators import BiasFields, MaskFields, PenaltyFields
from text_generation_shard.sampling.parameters import Processor
from text_generation_shard.sampling.rows import SamplingRows

# Those that the first one knows, beside biases and masks,
CHANGES = {Processor.REPETITION, Processor.FREQUENCY}
# and those that the second one knows.
PROCESSORS = {
    Processor.TEMPERATURE,
    Processor.TOP_K,
    Processor.TOP_P,
    Processor.MIN_P,
    Processor.DRAW,
}


def can_change(scores: Tensor) -> bool:
    """Whether the operator is there."""
    return native_operators(scores) is not None


def change(scores: Tensor, rows: SamplingRows) -> None:
    """Biases by slot, penalties and masks, in this order, in place; what `rows.logit_bias` names is
    not added. scores: float32 [rows, vocab].
    """
    operators = native_operators(scores)
    assert operators is not None
    biases = _biases(rows)
    penalties = _penalties(rows)
    masks = _masks(rows)
    if biases is not None or penalties is not None or masks is not None:
        operators.change_scores(scores, biases, penalties, masks)


def rows_left(scores: Tensor, rows: SamplingRows, top_n: Sequence[int]) -> Sequence[int]:
    """The rows that the operator cannot do: it knows no typical-p, and does not keep the
    log-probabilities of other tokens. All, where no row asks for what it does.

    Which way a row goes depends on the row alone, or its bits would depend on the batch.
    """
    if not rows.features.rows.keys() & PROCESSORS or native_operators(scores) is None:
        return range(len(scores))
    listed = (row for row, count in enumerate(top_n) if count)
    return sorted({*rows.features.needing(Processor.TYPICAL_P), *listed})


def sample(scores: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor, list[int]]:
    """Token ids, int64 [rows], and their log-probabilities, float32 [rows]; and the rows whose
    scores are not numbers, where these mean nothing.

    scores: float32 [rows, vocab], after penalties and masks; left as they are.
    """
    operators = native_operators(scores)
    assert operators is not None
    token_ids, logprobs, _, failed = operators.sample(
        scores, rows.temperature.contiguous(), *_choice(rows), 0
    )
    return token_ids, logprobs, failed


def candidates(scores: Tensor, *, first_id: int, count: int) -> Tensor:
    """The best scores of each row of a part of the vocabulary, which begins with first_id, and what
    all of the part weigh: float32 [rows, numbers], see `CandidatesCall`.

    scores: float32 [rows, part], after penalties and temperature.
    """
    operators = native_operators(scores)
    assert operators is not None
    return operators.candidates(scores, first_id, min(count, scores.shape[1]))


def choose(packets: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor, list[int]]:
    """What `sample` returns, from all parts' candidates, float32 [parts, rows, numbers]; rows that
    need more than these are among those that failed.
    """
    operators = native_operators(packets)
    assert operators is not None
    token_ids, logprobs, _, failed = operators.choose(packets, *_choice(rows))
    return token_ids, logprobs, failed


def _biases(rows: SamplingRows) -> BiasFields | None:
    lists = rows.biases
    if lists is None:
        return None
    return (lists.token_ids, lists.values, lists.counts, rows.history_rows)


def _penalties(rows: SamplingRows) -> PenaltyFields | None:
    if not rows.features.rows.keys() & CHANGES:
        return None
    history = rows.history
    return (
        rows.repetition_penalty.contiguous(),
        rows.frequency_penalty.contiguous(),
        rows.presence_penalty.contiguous(),
        history if history.dtype is torch.int32 else history.int(),
        rows.history_rows,
        rows.lengths,
        rows.output_starts.contiguous(),
    )


def _masks(rows: SamplingRows) -> MaskFields | None:
    masks = rows.masks
    if rows.grammar is not None:
        masks = rows.grammar.placed(len(rows.seeds))
    return None if masks is None else (masks.allowed, masks.places)


def _choice(rows: SamplingRows) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """How tokens are chosen among scores that have their temperature: the operators' arguments."""
    return (
        rows.top_k.contiguous(),
        rows.top_p.contiguous(),
        rows.min_p.contiguous(),
        rows.draws.contiguous(),
        rows.seeds.contiguous(),
        rows.positions.contiguous(),
    )
