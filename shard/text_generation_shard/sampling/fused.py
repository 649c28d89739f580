"""The sampler's pipeline as a few kernels, for logits on a GPU."""

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from text_generation_shard.ops.to_device import to_device
from text_generation_shard.ops.triton import library
from text_generation_shard.sampling.parameters import FILTERS, Processor, SamplingFeatures
from text_generation_shard.sampling.rows import GrammarMask, SamplingRows

if TYPE_CHECKING:
    from text_generation_shard.ops.triton.sample import Filters, Penalties, TokenMask


def can_sample(scores: Tensor) -> bool:
    """Whether the kernels are there. They know no watermark, and do not keep the log-probabilities
    of other tokens.
    """
    return library.takes(scores)


def sample(scores: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
    """Token ids, int64 [rows], and their log-probabilities, float32 [rows].

    scores: float32 [rows, vocab], after bias and watermark; left as they are.
    """
    from text_generation_shard.ops.triton import sample as kernels

    return kernels.sample(
        scores,
        kernels.Draws(
            temperature=rows.temperature,
            is_drawn=rows.draws,
            seeds=rows.seeds,
            positions=rows.positions,
        ),
        penalties=_penalties(rows),
        mask=_mask(rows),
        filters=_filters(rows),
    )


def compile_all(rows: SamplingRows, vocab_size: int) -> None:
    """Launch all variants of the kernels: one that is compiled while serving makes every sequence
    wait, for seconds. rows: one, that asks for nothing.
    """
    device = rows.seeds.device
    scores = torch.zeros(1, vocab_size, device=device)
    allowed = torch.full((1, -(-vocab_size // 32)), -1, dtype=torch.int32, device=device)
    for is_penalised, is_filtered, is_masked in itertools.product((False, True), repeat=3):
        asked = [Processor.REPETITION] * is_penalised + [Processor.TOP_P] * is_filtered
        features = SamplingFeatures(rows=dict.fromkeys(asked, (0,)))
        mask = GrammarMask((0,), allowed) if is_masked else None
        sample(scores, replace(rows, features=features, grammar=mask))


def _penalties(rows: SamplingRows) -> "Penalties | None":
    from text_generation_shard.ops.triton.sample import Penalties

    if not any(map(rows.features.needing, (Processor.REPETITION, Processor.FREQUENCY))):
        return None
    return Penalties(
        repetition=rows.repetition_penalty,
        frequency=rows.frequency_penalty,
        presence=rows.presence_penalty,
        history=rows.history,
        history_rows=rows.history_rows,
        output_starts=rows.output_starts,
        lengths=rows.lengths,
    )


def _mask(rows: SamplingRows) -> "TokenMask | None":
    from text_generation_shard.ops.triton.sample import TokenMask

    if rows.grammar is None:
        return None
    places = {row: place for place, row in enumerate(rows.grammar.rows)}
    index = [places.get(row, -1) for row in range(len(rows.seeds))]
    on_device = to_device(torch.tensor(index, dtype=torch.int32), rows.seeds.device)
    return TokenMask(allowed=rows.grammar.allowed, index=on_device)


def _filters(rows: SamplingRows) -> "Filters | None":
    from text_generation_shard.ops.triton.sample import Filters

    if not any(map(rows.features.needing, FILTERS)):
        return None
    return Filters(top_k=rows.top_k, top_p=rows.top_p, typical_p=rows.typical_p, min_p=rows.min_p)
