"""Rows to sample, made from the parameters of each."""

from collections.abc import Sequence
from typing import Any

import torch
from text_generation_shard.sampling.parameters import SamplingFeatures, SamplingParameters
from text_generation_shard.sampling.rows import FLOATS, GrammarMask, RowBias, SamplingRows

# What lies beyond a row's valid history: no token id at all.
GARBAGE = 987654321


def make_rows(
    parameters: Sequence[SamplingParameters],
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[Sequence[int]] | None = None,
    width: int = 16,
    grammar: GrammarMask | None = None,
) -> SamplingRows:
    prompts = [[1, 2, 3]] * len(parameters) if prompts is None else prompts
    outputs = [[]] * len(parameters) if outputs is None else outputs
    known = [[*prompt, *output] for prompt, output in zip(prompts, outputs, strict=True)]
    history = [row + [GARBAGE] * (width - len(row)) for row in known]
    lengths = torch.tensor([len(row) for row in known])
    floats: dict[str, Any] = {
        name: torch.tensor([getattr(p, name) for p in parameters]).float() for name in FLOATS
    }
    return SamplingRows(
        **floats,
        top_k=torch.tensor([p.top_k for p in parameters]),
        draws=torch.tensor([p.do_sample for p in parameters]),
        seeds=torch.tensor([p.signed_seed for p in parameters]),
        positions=lengths,
        history=torch.tensor(history),
        history_rows=torch.arange(len(history)),
        lengths=lengths,
        output_starts=torch.tensor([len(prompt) for prompt in prompts]),
        features=SamplingFeatures.of(parameters),
        logit_bias=tuple(
            RowBias(
                row,
                torch.tensor([token_id for token_id, _ in p.logit_bias]),
                torch.tensor([value for _, value in p.logit_bias]),
            )
            for row, p in enumerate(parameters)
            if p.logit_bias
        ),
        grammar=grammar,
    )


def pack_allowed(allowed: Sequence[Sequence[int]], vocab_size: int) -> torch.Tensor:
    """Bit masks of the allowed token ids of each row."""
    words = torch.zeros(len(allowed), (vocab_size + 31) // 32, dtype=torch.int64)
    for row, token_ids in enumerate(allowed):
        for token_id in token_ids:
            words[row, token_id // 32] |= 1 << (token_id % 32)
    return (words - ((words >> 31) << 32)).to(torch.int32)
