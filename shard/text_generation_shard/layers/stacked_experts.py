"""Experts whose matrices the checkpoint stores in a few tensors for all of them."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation import Activation, gated_activation
from text_generation_shard.weights.reader import WeightScope

Projection = Literal["gate", "up", "down"]

# Reads a projection of an expert for some of its intermediate dimensions, (projection, expert,
# dimensions, destination), into [len(dimensions), hidden].
ReadExpert = Callable[[Projection, int, range, Tensor], None]


class StackedExpert:
    """down(activation(gate(x)) * up(x)), as `GatedMLP` has it; not summed over the ranks."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        read: ReadExpert,
        *,
        expert: int,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
    ) -> None:
        share = even_range(intermediate_size, ranks.rank, ranks.world_size)
        size = len(share)

        def fill_gate_up(matrix: Tensor) -> None:
            read("gate", expert, share, matrix[:size])
            read("up", expert, share, matrix[size:])

        def fill_down(matrix: Tensor) -> None:
            read("down", expert, share, matrix.t())

        self._gate_up = weights.matrix(2 * size, hidden_size, fill_gate_up)
        self._down = weights.matrix(hidden_size, size, fill_down)
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns this rank's addend, the same shape."""
        return self._down(gated_activation(self._gate_up(x), self._activation))
