"""The two attentions that only encoder-decoders have."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.batch.encoder_slots import EncoderInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    OutputPart,
    RowParallelLinear,
)
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.relative_bias import rows_of_bias
from text_generation_shard.ops.kv_write import UNSCALED, write_kv
from text_generation_shard.ops.paged_attention import paged_attention
from text_generation_shard.weights.scope import WeightScope

# Queries that are computed at one time: bounds the scores.
_TILE_ROWS = 256


class EncoderAttention:
    """Every token of a text sees all of it; nothing is kept. For the heads of one rank."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        shape: AttentionShape,
        *,
        layout: SeparateQKV,
        output: str,
        scale: float,
    ) -> None:
        self._shape = shape
        self._qkv = _projection(weights, layout.parts(shape), shape)
        self._output = _output(weights, ranks, shape, output)
        self._scale = scale

    def __call__(self, x: Tensor, lengths: Sequence[int], diagonals: Sequence[Tensor]) -> Tensor:
        """x: [tokens, hidden], texts of these lengths one after the other; diagonals: for each, see
        `BidirectionalBias`. Returns x's shape.
        """
        heads = self._qkv(x).view(len(x), 3, -1, self._shape.head_dim)
        texts = heads.split_with_sizes(list(lengths))
        attended = [self._attend(*each) for each in zip(texts, diagonals, strict=True)]
        return self._output(torch.cat(attended).flatten(1))

    def _attend(self, heads: Tensor, diagonals: Tensor) -> Tensor:
        """heads: [tokens, 3, num_heads, head_dim], queries, keys and values of one text. Returns
        [tokens, num_heads, head_dim].
        """
        query, key, value = heads.permute(1, 2, 0, 3)
        length, tiles = len(heads), []
        for start in range(0, length, _TILE_ROWS):
            rows = range(start, min(start + _TILE_ROWS, length))
            bias = rows_of_bias(diagonals, rows).to(query.dtype)
            tiles.append(
                F.scaled_dot_product_attention(
                    query[None, :, rows.start : rows.stop],
                    key[None],
                    value[None],
                    attn_mask=bias[None],
                    scale=self._scale,
                )
            )
        return torch.cat(tiles, dim=2)[0].transpose(0, 1)


class CrossAttention:
    """Every token of a decoder sees all that its sequence's encoder read, for one rank's heads."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        shape: AttentionShape,
        *,
        layout: SeparateQKV,
        output: str,
        scale: float,
    ) -> None:
        query, *key_value = layout.parts(shape)
        self._shape = shape
        self._query = _projection(weights, [query], shape)
        self._key_value = _projection(weights, key_value, shape)
        self._output = _output(weights, ranks, shape, output)
        self._scale = scale

    def write(self, encoded: Tensor, inputs: EncoderInputs, cache: LayerCache) -> None:
        """Store keys and values of what encoders made: [encoder tokens, hidden]."""
        heads = self._key_value(encoded).view(len(encoded), 2, -1, self._shape.head_dim)
        caches, scales = (cache.keys, cache.values), cache.scales or UNSCALED
        write_kv(heads[:, 0], heads[:, 1], *caches, inputs.slot_mapping, scales)

    def __call__(
        self, x: Tensor, inputs: EncoderInputs, cache: LayerCache, *, addend: Tensor | None = None
    ) -> Tensor:
        """What is seen of x, plus the addend, which may be overwritten.

        x, addend: [tokens, hidden], of the decoder. Returns x's shape.
        """
        attended = paged_attention(
            self._query(x).view(len(x), -1, self._shape.head_dim),
            cache.keys,
            cache.values,
            inputs.attention,
            cache.workspace,
            scale=self._scale,
            kv_scales=cache.scales or UNSCALED,
        )
        return self._output(attended.flatten(1), addend)


def _projection(
    weights: WeightScope, parts: Sequence[OutputPart], shape: AttentionShape
) -> ColumnParallelLinear:
    return ColumnParallelLinear(weights, parts, num_inputs=shape.hidden_size, bias=False)


def _output(
    weights: WeightScope, ranks: RankGroup, shape: AttentionShape, name: str
) -> RowParallelLinear:
    first, num_heads = shape.heads.first_head, shape.heads.num_heads
    return RowParallelLinear(
        weights.scope(name),
        ranks,
        inputs=range(first * shape.head_dim, (first + num_heads) * shape.head_dim),
        total_inputs=shape.total_num_heads * shape.head_dim,
        num_outputs=shape.hidden_size,
        bias=False,
    )
