"""Feed-forward layers."""

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    even_parts,
)
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.silu_mul import silu_mul
from text_generation_shard.weights.reader import WeightScope


class GatedMLP:
    """down(silu(gate(x)) * up(x))."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        *,
        gate_up: tuple[str, str],
        down: str,
        hidden_size: int,
        intermediate_size: int,
        bias: bool,
    ) -> None:
        """gate_up, down: names of the modules in the checkpoint."""
        self._gate_up = ColumnParallelLinear(
            weights,
            even_parts(gate_up, intermediate_size, ranks),
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
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        return self._down(silu_mul(self._gate_up(x)))
