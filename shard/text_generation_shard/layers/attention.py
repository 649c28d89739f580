"""Self-attention over the paged KV cache."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.linear import ColumnParallelLinear, RowParallelLinear
from text_generation_shard.layers.norm import Norm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import QKVLayout
from text_generation_shard.ops.add_attention import ScoreOptions, add_attention
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.kv_write import UNSCALED, KVScales
from text_generation_shard.ops.paged_attention import paged_attention
from text_generation_shard.ops.project_heads import project_heads
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.ops.write_heads import HeadOptions
from text_generation_shard.weights.scope import WeightScope

# Positions, int64 [tokens], to float32 [tokens].
Temperature = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Any of the attentions."""

    @property
    def is_whole(self) -> bool:
        """Whether this rank computes all of it: then the last product begins with the addend. If
        ranks sum up first, it is added behind that, and as well by the norm that follows.
        """

    def __call__(
        self,
        x: Tensor,
        rotation: Rotation | None,
        inputs: ModelInputs,
        cache: LayerCache,
        *,
        norm: Norm | None = None,
        addend: Tensor | None = None,
    ) -> Tensor:
        """addend + self(norm(x)), which may overwrite the addend; norm None reads x as it is.

        x, addend: [tokens, hidden], the same tensor or two; rotation: None where positions do not
        turn. Returns x's shape.
        """


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
        qk_norms: tuple[Norm, Norm] | None = None,
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
        query_norm, key_norm = (None, None) if qk_norms is None else qk_norms
        self._heads = HeadOptions(
            clip or 0.0,
            None if query_norm is None else query_norm.weights,
            None if key_norm is None else key_norm.weights,
            norms_turned,
        )
        self._temperature = temperature
        self._kv_scales = _kv_scales(weights)

    @property
    def is_whole(self) -> bool:
        """As `Attention`."""
        return self._output.projection is not None

    def __call__(
        self,
        x: Tensor,
        rotation: Rotation | None,
        inputs: ModelInputs,
        cache: LayerCache,
        *,
        norm: Norm | None = None,
        addend: Tensor | None = None,
    ) -> Tensor:
        """As `Attention`."""
        norm_weights = None if norm is None else norm.weights
        temperature = None if self._temperature is None else self._temperature(inputs.positions)
        keys_and_values = (cache.keys, cache.values)
        kv_scales = self._kv_scales if cache.scales is None else cache.scales
        plan = inputs.attention[self._window]
        output = self._output.projection
        if output is not None:
            return add_attention(
                x,
                norm_weights,
                addend,
                self._qkv.projection,
                output,
                rotation,
                keys_and_values,
                inputs.slot_mapping,
                plan,
                cache.workspace,
                self._scores,
                heads=self._heads,
                temperature=temperature,
                kv_scales=kv_scales,
            )
        query = project_heads(
            x,
            norm_weights,
            self._qkv.projection,
            rotation,
            keys_and_values,
            inputs.slot_mapping,
            options=self._heads,
            temperature=temperature,
            scales=kv_scales,
        )
        attended = paged_attention(
            query,
            *keys_and_values,
            plan,
            cache.workspace,
            **self._scores._asdict(),
            kv_scales=kv_scales,
        )
        return self._output(attended.flatten(1), addend)


def _kv_scales(weights: WeightScope) -> KVScales:
    """Those of the checkpoint, which are meant for e4m3."""
    names = [name for name in ("k_scale", "v_scale", "kv_scale") if name in weights]
    stored = {name: weights.read_number(name) for name in names}
    if weights.cache_dtype != torch.float8_e4m3fn:
        return UNSCALED
    both = stored.get("kv_scale", 1.0)
    return KVScales(stored.get("k_scale", both), stored.get("v_scale", both))
