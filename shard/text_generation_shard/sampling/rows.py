"""What the sampler is told about the rows that it samples."""

from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.sampling.parameters import SamplingFeatures


@dataclass(frozen=True, slots=True)
class RowBias:
    """What is added to single scores of one row: token_ids int64 [tokens], without duplicates;
    values float32 [tokens].
    """

    row: int
    token_ids: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class GrammarMask:
    """The tokens that a grammar allows, for the rows that have one.

    rows: ascending. allowed: int32 [len(rows), ceil(vocab / 32)], bit i % 32 of word i // 32 set
    for every allowed token i; at least one bit per row.
    """

    rows: tuple[int, ...]
    allowed: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRows:
    """What is known of each sampled row; all tensors on the device of the logits.

    Sequence positions of one row: the prompt is history[:output_starts], the output so far
    history[output_starts:lengths], and the token to be sampled comes at `positions`.
    """

    # float32 [rows]
    temperature: Tensor
    top_p: Tensor
    typical_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    presence_penalty: Tensor
    # int64 [rows]
    top_k: Tensor
    # bool [rows]: whether the token is drawn, or the best one taken
    draws: Tensor
    # int64 [rows], the bit pattern of a u64
    seeds: Tensor
    # int64 [rows], index in the sequence of the token to be sampled
    positions: Tensor
    # int64 [rows, width], known tokens; valid in [0, lengths), anything beyond
    history: Tensor
    # int64 [rows], at least 1
    lengths: Tensor
    # int64 [rows]
    output_starts: Tensor
    # Which rows need which processor, known on the host: it decides what is computed, and the
    # tensors above are read for those rows only.
    features: SamplingFeatures
    logit_bias: tuple[RowBias, ...] = ()
    grammar: GrammarMask | None = None
