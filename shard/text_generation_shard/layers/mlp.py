"""Feed-forward layers."""

from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    OutputPart,
    RowParallelLinear,
    even_parts,
)
from text_generation_shard.layers.norm import Norm
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation_kind import Activation
from text_generation_shard.ops.add_mlp import activated, add_mlp
from text_generation_shard.ops.norm import normed
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True)
class StackedGateUp:
    """A checkpoint's layer that holds the gate's outputs and then the up-projection's."""

    name: str


class _FeedForward:
    """down(activation(up(x))), where `up` may be a gate and what it is multiplied by."""

    _is_gated: bool
    _activation: Activation
    _up: ColumnParallelLinear
    _down: RowParallelLinear

    def __call__(self, x: Tensor, addend: Tensor | None = None, norm: Norm | None = None) -> Tensor:
        """addend + self(norm(x)), which may overwrite the addend; norm None reads x as it is.

        x, addend: [tokens, hidden], the same tensor or two. Returns x's shape.
        """
        weights, down = None if norm is None else norm.weights, self._down.projection
        up, options = self._up.projection, {"is_gated": self._is_gated}
        if down is not None:
            return add_mlp(x, weights, addend, up, self._activation, down, **options)
        projected = up(x if weights is None else normed(x, weights))
        return self._down(activated(projected, self._activation, **options), addend)


class GatedMLP(_FeedForward):
    """down(activation(gate(x)) * up(x))."""

    _is_gated = True

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        *,
        gate_up: tuple[str, str] | StackedGateUp,
        down: str,
        hidden_size: int,
        intermediate_size: int,
        bias: bool = False,
        activation: Activation = "silu",
        is_summed: bool = True,
    ) -> None:
        """gate_up, down: names of the modules in the checkpoint; is_summed: see
        `RowParallelLinear`.
        """
        self._activation = activation
        self._up = ColumnParallelLinear(
            weights,
            _gate_up_parts(gate_up, intermediate_size, ranks),
            num_inputs=hidden_size,
            bias=bias,
        )
        self._down = RowParallelLinear(
            weights.scope(down),
            ranks,
            inputs=even_range(intermediate_size, ranks.rank, ranks.world_size),
            total_inputs=intermediate_size,
            num_outputs=hidden_size,
            bias=bias,
            is_summed=is_summed,
        )


class MLP(_FeedForward):
    """down(activation(up(x)))."""

    _is_gated = False

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        *,
        up: str,
        down: str,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        """up, down: names of the modules in the checkpoint; transposed: see the linear layers."""
        self._activation = activation
        self._up = ColumnParallelLinear(
            weights,
            even_parts((up,), intermediate_size, ranks),
            num_inputs=hidden_size,
            bias=bias,
            transposed=transposed,
        )
        self._down = RowParallelLinear(
            weights.scope(down),
            ranks,
            inputs=even_range(intermediate_size, ranks.rank, ranks.world_size),
            total_inputs=intermediate_size,
            num_outputs=hidden_size,
            bias=bias,
            transposed=transposed,
        )


def _gate_up_parts(
    gate_up: tuple[str, str] | StackedGateUp, intermediate_size: int, ranks: RankGroup
) -> list[OutputPart]:
    if isinstance(gate_up, tuple):
        return even_parts(gate_up, intermediate_size, ranks)
    share, total = (
        even_range(intermediate_size, ranks.rank, ranks.world_size),
        2 * intermediate_size,
    )
    return [
        OutputPart(gate_up.name, total, first + share.start, first + share.stop)
        for first in (0, intermediate_size)
    ]
