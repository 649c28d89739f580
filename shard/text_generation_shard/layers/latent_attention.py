"""Multi-head latent attention (DeepSeek-AI, 2024): keys and values of all heads from one vector.

A token leaves a latent vector and one key that is turned by its position; a head's key and value
are two matrices' products with the latent vector. Those matrices are applied to the query and to
the result instead ("absorbed"), so that a context is read as it is cached, once for all heads:

    cached key    [ latent             | turned key   ]     one for all heads, the same on all ranks
    cached value  [ latent             ]                    a view of the key
    query         [ to_latent(q_plain) | turned query ]     of each head
    output        from_latent(sum over tokens of weight * latent)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    HeadLinear,
    OutputPart,
    RowParallelLinear,
    whole_linear,
)
from text_generation_shard.layers.norm import Norm, RMSNorm
from text_generation_shard.ops.kv_write import write_keys
from text_generation_shard.ops.paged_attention import paged_attention
from text_generation_shard.ops.rotary import Rotation, turn
from text_generation_shard.weights.reader import WeightScope

# Of the norms between two projections, whatever the model's other norms have.
_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShape:
    """Widths of the vectors, and the query heads of this rank."""

    heads: range
    total_num_heads: int
    hidden_size: int
    # Of the cached latent vector.
    latent_dim: int
    # Of queries between their two projections; None: there is one projection.
    query_dim: int | None
    # Of a head's queries and keys: what is not turned by the position, and what is.
    plain_dim: int
    turned_dim: int
    # Of a head's values.
    value_dim: int


class LatentAttention:
    """Project, absorb, attend to latent vectors, project back: for the query heads of one rank."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        shape: LatentShape,
        *,
        scale: float,
        bias: bool,
    ) -> None:
        """scale: of the scores; bias: of the projections that are not made for each head."""
        self._shape = shape
        self._scale = scale
        latent, hidden, heads = shape.latent_dim, shape.hidden_size, shape.heads
        self._query = _query_projection(weights, shape, bias=bias)
        self._key = whole_linear(
            weights,
            "kv_a_proj_with_mqa",
            num_inputs=hidden,
            num_outputs=latent + shape.turned_dim,
            bias=bias,
        )
        self._latent_norm = RMSNorm(weights.scope("kv_a_layernorm"), size=latent, eps=_NORM_EPS)
        self._to_latent = HeadLinear(
            weights,
            _expansion(weights, shape, of_values=False),
            heads=heads,
            num_inputs=shape.plain_dim,
            num_outputs=latent,
        )
        self._from_latent = HeadLinear(
            weights,
            _expansion(weights, shape, of_values=True),
            heads=heads,
            num_inputs=latent,
            num_outputs=shape.value_dim,
        )
        self._output = RowParallelLinear(
            weights.scope("o_proj"),
            ranks,
            inputs=range(heads.start * shape.value_dim, heads.stop * shape.value_dim),
            total_inputs=shape.total_num_heads * shape.value_dim,
            num_outputs=hidden,
            bias=bias,
        )

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
        """As `layers.attention.Attention`."""
        assert rotation is not None
        x = x if norm is None else norm(x)
        shape = self._shape
        key, query = self._key(x).unsqueeze(1), self._query(x).view(len(x), len(shape.heads), -1)
        latent, turning = key[..., : shape.latent_dim], key[..., shape.latent_dim :]
        key = torch.cat((self._latent_norm(latent), turn(turning, rotation)), dim=-1)
        write_keys(key, cache.keys, inputs.slot_mapping)
        plain, turning = query[..., : shape.plain_dim], query[..., shape.plain_dim :]
        attended = paged_attention(
            torch.cat((self._to_latent(plain), turn(turning, rotation)), dim=-1),
            cache.keys,
            cache.values,
            inputs.attention[None],
            cache.workspace,
            scale=self._scale,
        )
        return self._output(self._from_latent(attended).flatten(1), addend)


def _query_projection(
    weights: WeightScope, shape: LatentShape, *, bias: bool
) -> Callable[[Tensor], Tensor]:
    """From [tokens, hidden] to the queries of this rank's heads, one after the other."""
    head_dim = shape.plain_dim + shape.turned_dim

    def heads(name: str, num_inputs: int) -> ColumnParallelLinear:
        total, start, stop = (
            count * head_dim
            for count in (shape.total_num_heads, shape.heads.start, shape.heads.stop)
        )
        part = OutputPart(name, total, start, stop)
        return ColumnParallelLinear(weights, [part], num_inputs=num_inputs, bias=False)

    if shape.query_dim is None:
        return heads("q_proj", shape.hidden_size)
    down = whole_linear(
        weights,
        "q_a_proj",
        num_inputs=shape.hidden_size,
        num_outputs=shape.query_dim,
        bias=bias,
    )
    norm = RMSNorm(weights.scope("q_a_layernorm"), size=shape.query_dim, eps=_NORM_EPS)
    up = heads("q_b_proj", shape.query_dim)
    return lambda x: up(norm(down(x)))


def _expansion(
    weights: WeightScope, shape: LatentShape, *, of_values: bool
) -> Callable[[int, Tensor], None]:
    """Reads a head's part of kv_b_proj, which lie one after the other:

        head 0: plain_dim keys, value_dim values | head 1: ...

    as [value_dim, latent_dim], or turned over as [latent_dim, plain_dim] to be applied to queries.
    """
    width = shape.plain_dim + shape.value_dim

    def read(head: int, matrix: Tensor) -> None:
        weights.read_into(
            matrix if of_values else matrix.t(),
            "kv_b_proj.weight",
            shape=(shape.total_num_heads * width, shape.latent_dim),
            start=head * width + (shape.plain_dim if of_values else 0),
        )

    return read
