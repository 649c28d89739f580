"""The end of the sampler's pipeline as one C++ operator: temperature, filters, draw."""

from collections.abc import Sequence

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.sampling.parameters import Processor
from text_generation_shard.sampling.rows import SamplingRows

# Those that it knows.
PROCESSORS = {
    Processor.TEMPERATURE,
    Processor.TOP_K,
    Processor.TOP_P,
    Processor.MIN_P,
    Processor.DRAW,
}


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
    return operators.sample(
        scores,
        rows.temperature.contiguous(),
        rows.top_k.contiguous(),
        rows.top_p.contiguous(),
        rows.min_p.contiguous(),
        rows.draws.contiguous(),
        rows.seeds.contiguous(),
        rows.positions.contiguous(),
    )
