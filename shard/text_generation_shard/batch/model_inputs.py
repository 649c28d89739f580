"""The tensors of one step, as the model takes them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.batch.encoder_slots import EncoderInputs
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.paged_attention import AttentionPlan
from text_generation_shard.ops.sequence_rows import SequenceRows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """One step's tokens, all sequences one after the other, decode rows first.

    token_ids: [tokens], int32; positions: [tokens], int64, index in the sequence; slot_mapping:
    [tokens], int64, place in the flattened cache where the token's key and value go; attention: a
    plan for each window of the model; max_total_tokens: longest sequence that is served;
    sequences: whose rows are whose, for recurrent layers; encoder: of encoder-decoders, whose
    decoder all the rest is about.
    """

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    attention: Mapping[Window, AttentionPlan]
    max_total_tokens: int
    sequences: SequenceRows
    encoder: EncoderInputs | None = None
