"""Experts whose matrices the checkpoint stores in a few tensors for all of them."""

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class StackedExpert:
    """down(activation(gate(x)) * up(x)), as `GatedMLP` has it; not summed over the ranks."""

    # The gates and then the up-projections of this rank's dimensions.
    gate_up: LinearWeight
    down: LinearWeight
    activation: Activation

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns this rank's addend, the same shape."""
        return self.down(gated_activation(self.gate_up(x), self.activation))


def stacked_experts(
    weights: WeightScope,
    ranks: RankGroup,
    read: ReadExpert,
    *,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    activation: Activation,
) -> list[StackedExpert]:
    """This rank's part of every expert."""
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
            activation,
        )
        for expert in range(num_experts)
    ]
