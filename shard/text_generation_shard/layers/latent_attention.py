"""Multi-head latent attention (DeepSeek-AI, 2024): keys and values of all heads from one vector.

A token leaves a latent vector and one key that is turned by its position; a head's key and value
are two matrices' products with the latent vector. Those matrices are applied to the query and to
the result instead ("absorbed"), so that a context is read as it is cached, once for all heads:

    cached key    [ latent             | turned key   ]     one for all heads, the same on all ranks
    cached value  [ latent             ]                    a view of the key
    query         [ to_latent(q_plain) | turned query ]     of each head
    output        from_latent(sum over tokens of weight * latent)

On CPU a prompt's chunk that costs less so makes keys and values of its context after all.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    OutputPart,
    RowParallelLinear,
    whole_linear,
)
from text_generation_shard.layers.norm import Norm, RMSNorm
from text_generation_shard.ops.latent_attention import LatentExpansion, latent_attention
from text_generation_shard.ops.linear import MatrixStack
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.weights.scope import WeightScope

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
        self._expansion = _expansion(weights, shape)
        self._output = RowParallelLinear(
            weights.scope("o_proj"),
            ranks,
            inputs=range(heads.start * shape.value_dim, heads.stop * shape.value_dim),
            total_inputs=shape.total_num_heads * shape.value_dim,
            num_outputs=hidden,
            bias=bias,
        )

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
        """As `layers.attention.Attention`."""
        assert rotation is not None
        x = x if norm is None else norm(x)
        attended = latent_attention(
            self._query(x).view(len(x), len(self._shape.heads), -1),
            self._key(x),
            self._latent_norm.weights,
            rotation,
            self._expansion,
            (cache.keys, cache.values),
            inputs.slot_mapping,
            inputs.attention[None],
            cache.workspace,
            scale=self._scale,
        )
        return self._output(attended.flatten(1), addend)


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


def _expansion(weights: WeightScope, shape: LatentShape) -> LatentExpansion:
    """The heads' parts of kv_b_proj, which lie one after the other:

    head 0: plain_dim keys, value_dim values | head 1: ...
    """
    plain, value, latent = shape.plain_dim, shape.value_dim, shape.latent_dim
    stored = (shape.total_num_heads * (plain + value), latent)

    def matrices(
        num_outputs: int, num_inputs: int, *, skipped: int = 0, turned_over: bool = False
    ) -> MatrixStack:
        """skipped: outputs of each head before those that are read."""

        def fill(index: int, matrix: Tensor) -> None:
            weights.read_into(
                matrix.t() if turned_over else matrix,
                "kv_b_proj.weight",
                shape=stored,
                start=shape.heads[index] * (plain + value) + skipped,
            )

        # Fewer bits than a table's would save little, and no time: a product has few inputs.
        return weights.matrices(len(shape.heads), num_outputs, num_inputs, fill, is_table=True)

    return LatentExpansion(
        to_latent=matrices(latent, plain, turned_over=True),
        to_key=matrices(plain, latent) if weights.storage.body is not None else None,
        from_latent=matrices(value, latent, skipped=plain),
    )
