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
from text_generation_shard.layers.norm import Norm, RMSNorm
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation import Activation, activate, gated_activation
from text_generation_shard.ops.gated_mlp import add_silu_mlp
from text_generation_shard.weights.reader import WeightScope


@dataclass(frozen=True, slots=True)
class StackedGateUp:
    """A checkpoint's layer that holds the gate's outputs and then the up-projection's."""

    name: str


class GatedMLP:
    """down(activation(gate(x)) * up(x))."""

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
        self._gate_up = ColumnParallelLinear(
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

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """x, addend: [tokens, hidden]; the addend may be overwritten. Returns the same shape."""
        return self._down(gated_activation(self._gate_up(x), self._activation), addend)

    def add_to(self, stream: Tensor, norm: Norm) -> Tensor:
        """stream + self(norm(stream)), which may overwrite it. stream: [tokens, hidden]."""
        down = self._down.projection
        if isinstance(norm, RMSNorm) and self._activation == "silu" and down is not None:
            return add_silu_mlp(stream, norm.weight, norm.eps, self._gate_up.projection, down)
        return self(norm(stream), stream)


class MLP:
    """down(activation(up(x)))."""

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

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """x, addend: [tokens, hidden]; the addend may be overwritten. Returns the same shape."""
        return self._down(activate(self._up(x), self._activation), addend)

    def add_to(self, stream: Tensor, norm: Norm) -> Tensor:
        """stream + self(norm(stream)), which may overwrite it. stream: [tokens, hidden]."""
        return self(norm(stream), stream)


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
