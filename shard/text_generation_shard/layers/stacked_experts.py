"""Reading the experts of a layer, whose matrices are kept side by side."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation_kind import GatedActivation
from text_generation_shard.ops.experts import Experts
from text_generation_shard.weights.scope import WeightScope

Projection = Literal["gate", "up", "down"]

# Reads a projection of an expert for some of its intermediate dimensions, (projection, expert,
# dimensions, destination), into [len(dimensions), hidden].
ReadExpert = Callable[[Projection, int, range, Tensor], None]


def stacked_experts(
    weights: WeightScope,
    ranks: RankGroup,
    read: ReadExpert,
    *,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    activation: GatedActivation,
    biases: tuple[Tensor, Tensor] | None = None,
) -> Experts:
    """This rank's part of every expert; biases: of gates and up-projections, for this rank's
    dimensions, and of the results, which one rank alone adds; shapes as `Experts` has them.
    """
    share = even_range(intermediate_size, ranks.rank, ranks.world_size)
    size = len(share)
    gate_up_bias, down_bias = (None, None) if biases is None else biases

    def fill_gate_up(expert: int, matrix: Tensor) -> None:
        read("gate", expert, share, matrix[:size])
        read("up", expert, share, matrix[size:])

    def fill_down(expert: int, matrix: Tensor) -> None:
        read("down", expert, share, matrix.t())

    return Experts(
        gate_up=weights.matrices(num_experts, 2 * size, hidden_size, fill_gate_up),
        down=weights.matrices(num_experts, hidden_size, size, fill_down),
        activation=activation,
        gate_up_bias=gate_up_bias,
        down_bias=down_bias if ranks.rank == 0 else None,
    )
