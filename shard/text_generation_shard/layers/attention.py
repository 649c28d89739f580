"""Self-attention over the paged KV cache."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.linear import ColumnParallelLinear, RowParallelLinear
from text_generation_shard.layers.norm import Norm, RMSNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import QKVLayout
from text_generation_shard.layers.rotary import Rotation
from text_generation_shard.ops.add_attention import ScoreOptions, add_attention
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, write_kv
from text_generation_shard.ops.paged_attention import paged_attention
from text_generation_shard.ops.rotary import apply_rotary
from text_generation_shard.ops.rotary_kv import HeadNorms, rotate_and_write
from text_generation_shard.weights.reader import WeightScope

# [tokens, heads, head_dim] to the same
HeadNorm = Callable[[Tensor], Tensor]
# Positions, int64 [tokens], to float32 [tokens].
Temperature = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Any of the attentions."""

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]; rotation: None where positions do not turn. Returns x's shape."""


class SelfAttention:
    """Project, turn by position, attend, project back: grouped-query, for the heads of one rank."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        shape: AttentionShape,
        *,
        layout: QKVLayout,
        output: str,
        qkv_bias: bool = False,
        output_bias: bool = False,
        transposed: bool = False,
        scale: float | None = None,
        soft_cap: float | None = None,
        sliding_window: Window = None,
        alibi_slopes: Tensor | None = None,
        distance_bias: Tensor | None = None,
        sinks: Tensor | None = None,
        qk_norms: tuple[HeadNorm, HeadNorm] | None = None,
        norms_turned: bool = False,
        temperature: Temperature | None = None,
        clip: float | None = None,
    ) -> None:
        """output: the module of the projection back. scale: of the scores, head_dim ** -0.5 without
        one. qk_norms: of queries and of keys, before they are turned, or with norms_turned after
        that. temperature: what queries are multiplied by. clip: the largest magnitude of queries,
        keys and values. transposed: see `ColumnParallelLinear`; the rest is `paged_attention`'s.
        """
        first, num_heads = shape.heads.first_head, shape.heads.num_heads
        self._shape = shape
        self._qkv = ColumnParallelLinear(
            weights,
            layout.parts(shape),
            num_inputs=shape.hidden_size,
            bias=qkv_bias,
            transposed=transposed,
        )
        self._output = RowParallelLinear(
            weights.scope(output),
            ranks,
            inputs=range(first * shape.head_dim, (first + num_heads) * shape.head_dim),
            total_inputs=shape.total_num_heads * shape.head_dim,
            num_outputs=shape.hidden_size,
            bias=output_bias,
            transposed=transposed,
        )
        scale = shape.head_dim**-0.5 if scale is None else scale
        self._scores = ScoreOptions(scale, soft_cap, alibi_slopes, distance_bias, sinks)
        self._window = sliding_window
        self._qk_norms = qk_norms
        self._norms_turned = norms_turned
        self._temperature = temperature
        self._fused_norms = None if norms_turned else _fused_norms(qk_norms)
        self._clip = clip
        self._kv_scales = _kv_scales(weights)

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]; rotation: None where positions do not turn. Returns x's shape."""
        query = self._write(self._project(x), rotation, inputs, cache)
        return self._output(self._attend(query, inputs, cache))

    def add_to(
        self,
        stream: Tensor,
        norm: Norm,
        rotation: Rotation | None,
        inputs: ModelInputs,
        cache: LayerCache,
    ) -> Tensor:
        """stream + self(norm(stream)), which may overwrite it. stream: [tokens, hidden]."""
        output = self._output.projection
        if isinstance(norm, RMSNorm) and output is not None and self._is_plain(rotation):
            assert rotation is not None
            return add_attention(
                stream,
                norm.weight,
                norm.eps,
                self._qkv.projection,
                output,
                (rotation.cos, rotation.signed_sin),
                (cache.keys, cache.values),
                inputs.slot_mapping,
                inputs.attention[self._window],
                cache.workspace,
                self._scores,
                self._kv_scales,
            )
        query = self._write(self._project(norm(stream)), rotation, inputs, cache)
        return self._output(self._attend(query, inputs, cache), stream)

    def _project(self, x: Tensor) -> Tensor:
        """[tokens, num_heads + 2 * num_kv_heads, head_dim]: queries, keys and values."""
        qkv = self._qkv(x)
        if self._clip is not None:
            qkv = qkv.clamp_(-self._clip, self._clip)
        return qkv.view(len(qkv), -1, self._shape.head_dim)

    def _attend(self, query: Tensor, inputs: ModelInputs, cache: LayerCache) -> Tensor:
        """query: [tokens, num_heads, head_dim]. Returns [tokens, num_heads * head_dim]."""
        if self._temperature is not None:
            query = query * self._temperature(inputs.positions)[:, None, None].to(query.dtype)
        attended = paged_attention(
            query,
            cache.keys,
            cache.values,
            inputs.attention[self._window],
            cache.workspace,
            **self._scores._asdict(),
            kv_scales=self._kv_scales,
        )
        return attended.flatten(1)

    def _is_plain(self, rotation: Rotation | None) -> bool:
        """Whether queries, keys and values are as they were projected, but that queries and keys
        are turned by halves.
        """
        is_turned = rotation is not None and not rotation.interleaved
        is_changed = self._qk_norms is not None or self._clip is not None
        return is_turned and not is_changed and self._temperature is None

    def _write(
        self, heads: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """Store keys and values; returns the queries, [tokens, num_heads, head_dim].

        heads: [tokens, num_heads + 2 * num_kv_heads, head_dim], queries, keys and values.
        """
        places = (cache.keys, cache.values, inputs.slot_mapping)
        is_fused = self._qk_norms is None or self._fused_norms is not None
        if rotation is not None and is_fused:
            return rotate_and_write(
                heads,
                rotation.cos,
                rotation.signed_sin,
                *places,
                interleaved=rotation.interleaved,
                norms=self._fused_norms,
                scales=self._kv_scales,
            )
        num_heads, num_kv_heads = self._shape.heads.num_heads, self._shape.heads.num_kv_heads
        query, key = heads[:, :num_heads], heads[:, num_heads:-num_kv_heads]
        if self._norms_turned:
            query, key = _turn(query, rotation), _turn(key, rotation)
        if self._qk_norms is not None:
            query_norm, key_norm = self._qk_norms
            query, key = query_norm(query), key_norm(key)
        if not self._norms_turned:
            query, key = _turn(query, rotation), _turn(key, rotation)
        write_kv(key, heads[:, -num_kv_heads:], *places, self._kv_scales)
        return query


def _kv_scales(weights: WeightScope) -> KVScales:
    """Those of the checkpoint, which are meant for e4m3."""
    names = [name for name in ("k_scale", "v_scale", "kv_scale") if name in weights]
    stored = {name: weights.read_number(name) for name in names}
    if weights.cache_dtype != torch.float8_e4m3fn:
        return UNSCALED
    both = stored.get("kv_scale", 1.0)
    return KVScales(stored.get("k_scale", both), stored.get("v_scale", both))


def _fused_norms(qk_norms: tuple[HeadNorm, HeadNorm] | None) -> HeadNorms | None:
    """The norms as the operator that turns and writes takes them; None where it cannot."""
    if qk_norms is None:
        return None
    query_norm, key_norm = qk_norms
    if not isinstance(query_norm, RMSNorm) or not isinstance(key_norm, RMSNorm):
        return None
    assert query_norm.eps == key_norm.eps
    return HeadNorms(query_norm.weight, key_norm.weight, query_norm.eps)


def _turn(heads: Tensor, rotation: Rotation | None) -> Tensor:
    if rotation is None:
        return heads
    return apply_rotary(heads, rotation.cos, rotation.signed_sin, interleaved=rotation.interleaved)
