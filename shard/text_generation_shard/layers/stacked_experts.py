"""Experts whose matrices the checkpoint stores in a few tensors for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation import Activation, gated_activation
from text_generation_shard.ops.linear import LinearWeight
from text_generation_shard.weights.reader import WeightScope

Projection = Literal["gate", "up", "down"]

# Reads a projection of an expert for some of its intermediate dimensions, (projection, expert,
# dimensions, destination), into [len(dimensions), hidden].
ReadExpert = Callable[[Projection, int, range, Tensor], None]


Transform = Callable[[Tensor], Tensor]

# Of the gates and up-projections, [2 * size], and of the result, [hidden].
Biases = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True)
class StackedExpert:
    """down(activation(gate(x)) * up(x)), as `GatedMLP` has it; not summed over the ranks."""

    # The gates and then the up-projections of this rank's dimensions.
    gate_up: LinearWeight
    down: LinearWeight
    # [tokens, 2 * size] to [tokens, size]
    activation: Transform
    biases: Biases

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns this rank's addend, the same shape."""
        gate_up_bias, down_bias = self.biases
        return self.down(self.activation(self.gate_up(x, gate_up_bias)), down_bias)


def stacked_experts(
    weights: WeightScope,
    ranks: RankGroup,
    read: ReadExpert,
    *,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    activation: Activation | Transform,
    biases: Sequence[Biases] | None = None,
) -> list[StackedExpert]:
    """This rank's part of every expert; biases: of each, if they have some, the first for this
    rank's dimensions; the second is added by one rank alone.
    """
    transform = activation if callable(activation) else _gated(activation)
    if biases is None:
        biases = [(None, None)] * num_experts
    share = even_range(intermediate_size, ranks.rank, ranks.world_size)
    size = len(share)

    def fill_gate_up(expert: int, matrix: Tensor) -> None:
        read("gate", expert, share, matrix[:size])
        read("up", expert, share, matrix[size:])

    def fill_down(expert: int, matrix: Tensor) -> None:
        read("down", expert, share, matrix.t())

    return [
        StackedExpert(
            weights.matrix(2 * size, hidden_size, partial(fill_gate_up, expert)),
            weights.matrix(hidden_size, size, partial(fill_down, expert)),
            transform,
            (biases[expert][0], biases[expert][1] if ranks.rank == 0 else None),
        )
        for expert in range(num_experts)
    ]


def _gated(activation: Activation) -> Transform:
    return lambda gate_up: gated_activation(gate_up, activation)
