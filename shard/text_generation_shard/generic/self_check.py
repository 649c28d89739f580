"""Two sequences computed by transformers alone and in steps through the paged cache.

This is what finds a state that the survey cannot see: a convolution, positions that a model counts
by itself, anything that crosses from one sequence of a batch to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.generic.foreign import refusing
from text_generation_shard.generic.model import GenericModel
from text_generation_shard.kv_cache import KVCache
from text_generation_shard.ops.paged_attention import plan_attention
from text_generation_shard.ops.sequence_rows import SequenceRows

_LENGTHS = (24, 8)
_BLOCK_SIZE = 16
# Blocks of each sequence.
_BLOCKS = ((1, 2), (3, 0))
# Sequence, first and last position but one of every piece; decode rows first.
_STEPS = (((0, 0, 9),), ((0, 9, 10), (1, 0, 7)), ((1, 7, 8), (0, 10, 24)))
# Of each sequence, the first token with others before it in the cache: from there on it is checked.
_FIRST_CHECKED = (9, 7)
# How far logits may be from transformers', as a share of their spread: the median of the tokens,
# for in 16 bits a token may choose another expert.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_16_BITS = 0.1


@dataclass(frozen=True, slots=True)
class Expected:
    """token_ids: int64 [tokens] of each sequence; logits: [tokens, vocab] of each."""

    token_ids: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


@torch.inference_mode()
def expect(module: Any, vocab_size: int) -> Expected:
    """What transformers computes with its own attention; module: a PreTrainedModel."""
    module.config._attn_implementation = "eager"  # noqa: SLF001  transformers' own way
    token_ids, logits = [], []
    with refusing("transformers cannot compute it"):
        for length in _LENGTHS:
            index = torch.arange(length, device=module.device)
            ids = (7 * index * index + 3 * length) % vocab_size
            output = module(input_ids=ids[None], position_ids=index[None], use_cache=False)
            token_ids.append(ids)
            logits.append(output.logits[0].float())
    return Expected(tuple(token_ids), tuple(logits))


@torch.inference_mode()
def check(model: GenericModel, expected: Expected, ranks: RankGroup) -> None:
    """CheckpointError unless the model computes what is expected; all ranks call it alike."""
    with refusing("it does not run with paged attention"):
        actual = _logits(model, expected.token_ids, ranks)
    error = 0.0
    if actual is not None:
        error = _error(actual, expected.logits)
    tolerance = _TOLERANCE.get(model.cache_spec.dtype, _TOLERANCE_16_BITS)
    # Also where the error is no number.
    if ranks.maximum(not error <= tolerance):
        raise CheckpointError(
            "computed in steps, it does not give what it gives at once: it keeps a state beside "
            f"attention's keys and values, or does not heed positions (error {error:.2g})"
        )


def _error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The median distance; [tokens, vocab] of each sequence."""
    distances = [
        _distances(own[first:], reference[first:])
        for own, reference, first in zip(actual, expected, _FIRST_CHECKED, strict=True)
    ]
    return float(torch.cat(distances).median())


def _distances(actual: Tensor, expected: Tensor) -> Tensor:
    """[tokens]: the distance of logits as a share of their spread."""
    spread = torch.linalg.vector_norm(expected - expected.mean(-1, keepdim=True), dim=-1)
    distances: Tensor = torch.linalg.vector_norm(actual - expected, dim=-1) / spread
    return distances


def _logits(
    model: GenericModel, token_ids: tuple[Tensor, ...], ranks: RankGroup
) -> list[Tensor] | None:
    """[tokens, vocab] of each sequence on rank 0; None elsewhere."""
    cache = KVCache.allocate(
        model.cache_spec,
        num_blocks=4,
        block_size=_BLOCK_SIZE,
        max_total_tokens=max(_LENGTHS),
        num_slots=len(_LENGTHS),
    )
    rows: list[list[Tensor]] = [[] for _ in token_ids]
    for pieces in _STEPS:
        hidden = model.forward(_inputs(model, pieces, token_ids), cache)
        logits = ranks.gather_columns(model.logits(hidden))
        if logits is None:
            continue
        lengths = [end - start for _, start, end in pieces]
        parts = torch.split(logits[:, : model.config.vocab_size], lengths)
        for (sequence, _, _), part in zip(pieces, parts, strict=True):
            rows[sequence].append(part)
    return [torch.cat(parts) for parts in rows] if rows[0] else None


def _inputs(
    model: GenericModel, pieces: tuple[tuple[int, int, int], ...], token_ids: tuple[Tensor, ...]
) -> ModelInputs:
    device = model.cache_spec.device
    blocks = torch.tensor([_BLOCKS[sequence] for sequence, _, _ in pieces], device=device)
    lengths = [end - start for _, start, end in pieces]
    positions = [torch.arange(start, end, device=device) for _, start, end in pieces]
    places = [
        table[row // _BLOCK_SIZE] * _BLOCK_SIZE + row % _BLOCK_SIZE
        for table, row in zip(blocks, positions, strict=True)
    ]
    plans = {
        window: plan_attention(
            block_tables=blocks.int(),
            query_lengths=lengths,
            context_lengths=[end for _, _, end in pieces],
            block_size=_BLOCK_SIZE,
            sliding_window=window,
        )
        for window in model.config.sliding_windows
    }
    return ModelInputs(
        token_ids=torch.cat([token_ids[sequence][start:end] for sequence, start, end in pieces]),
        positions=torch.cat(positions),
        slot_mapping=torch.cat(places),
        attention=plans,
        max_total_tokens=max(_LENGTHS),
        sequences=SequenceRows(
            slots=torch.tensor([sequence for sequence, _, _ in pieces], device=device),
            first_rows=torch.tensor(list(accumulate(lengths, initial=0))),
            num_decodes=lengths.count(1),
            new_slots=torch.tensor(
                [each for each, start, _ in pieces if start == 0], device=device
            ),
        ),
    )
