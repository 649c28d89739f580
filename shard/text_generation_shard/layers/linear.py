"""Linear layers, cut over the ranks.

A column-parallel layer makes part of the outputs from all inputs; a row-parallel one takes part of
the inputs and sums over the ranks. One after the other they need one collective.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import HeadPartition, even_range
from text_generation_shard.ops.linear import Projection
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True)
class OutputPart:
    """Consecutive outputs of one stored linear layer that this rank computes."""

    # Module in the checkpoint, such as "q_proj".
    name: str
    # Outputs of the stored layer.
    total_outputs: int
    start: int
    stop: int

    @property
    def num_outputs(self) -> int:
        """Outputs of the part."""
        return self.stop - self.start


class ColumnParallelLinear:
    """y = x W^T + b, for the named parts of one or more stored layers, fused into one product."""

    def __init__(
        self,
        weights: WeightScope,
        parts: Sequence[OutputPart],
        *,
        num_inputs: int,
        bias: bool,
        transposed: bool = False,
    ) -> None:
        """transposed: the checkpoint stores weights as [inputs, outputs] (GPT-2's Conv1D)."""
        stops = list(accumulate(part.num_outputs for part in parts))
        rows = [slice(end - part.num_outputs, end) for part, end in zip(parts, stops, strict=True)]

        def fill(matrix: Tensor) -> None:
            for part, part_rows in zip(parts, rows, strict=True):
                _read_weight(
                    weights,
                    matrix[part_rows],
                    f"{part.name}.weight",
                    shape=(part.total_outputs, num_inputs),
                    dim=0,
                    start=part.start,
                    transposed=transposed,
                )

        self._weight = weights.matrix(stops[-1], num_inputs, fill)
        self._bias = weights.empty(stops[-1]) if bias else None
        if self._bias is not None:
            for part, part_rows in zip(parts, rows, strict=True):
                shape = (part.total_outputs,)
                weights.read_into(
                    self._bias[part_rows], f"{part.name}.bias", shape=shape, start=part.start
                )

    @property
    def projection(self) -> Projection:
        """What this rank computes."""
        return Projection(self._weight, self._bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, num_inputs]. Returns [tokens, outputs of all parts]."""
        return self._weight(x, self._bias)


class RowParallelLinear:
    """y = sum over ranks of x_r W_r^T, plus the bias once."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        *,
        inputs: range,
        total_inputs: int,
        num_outputs: int,
        bias: bool,
        transposed: bool = False,
        is_summed: bool = True,
    ) -> None:
        """inputs: the part of the stored layer's inputs that this rank has; transposed: the
        checkpoint stores weights as [inputs, outputs]; is_summed: False leaves the sum over ranks
        to the caller, who adds up several such layers first.
        """
        assert is_summed or not bias
        self._ranks = ranks
        self._is_summed = is_summed

        def fill(matrix: Tensor) -> None:
            _read_weight(
                weights,
                matrix,
                "weight",
                shape=(num_outputs, total_inputs),
                dim=1,
                start=inputs.start,
                transposed=transposed,
            )

        self._weight = weights.matrix(num_outputs, len(inputs), fill)
        self._bias = weights.read("bias", (num_outputs,)) if bias else None

    @property
    def projection(self) -> Projection | None:
        """What this rank computes, if that is the whole layer."""
        return Projection(self._weight, self._bias) if self._ranks.world_size == 1 else None

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """x: [tokens, inputs of this rank]; addend: [tokens, num_outputs], added once, which
        may be overwritten. Returns [tokens, num_outputs], equal on all ranks.
        """
        if self._ranks.world_size == 1:
            return self._weight(x, self._bias, addend)
        total = self._weight(x)
        if self._is_summed:
            total = self._ranks.all_reduce(total)
        if self._bias is not None:
            total.add_(self._bias)
        return total if addend is None else addend + total


def _read_weight(
    weights: WeightScope,
    destination: Tensor,
    name: str,
    *,
    shape: tuple[int, int],
    dim: int,
    start: int,
    transposed: bool,
) -> None:
    """Read the part of a weight that begins at `start` in `dim`; shape: [outputs, inputs]."""
    if transposed:
        destination, shape, dim = destination.t(), (shape[1], shape[0]), 1 - dim
    weights.read_into(destination, name, shape=shape, dim=dim, start=start)


def qkv_parts(
    names: tuple[str, str, str],
    heads: HeadPartition,
    *,
    total_heads: tuple[int, int],
    head_dim: int,
) -> list[OutputPart]:
    """The outputs of query, key and value that one rank computes, in this order.

    names: modules of query, key and value; total_heads: query heads and KV heads of the model.
    """
    query, key, value = names
    total_queries, total_kvs = (count * head_dim for count in total_heads)
    start = heads.first_head * head_dim
    parts = [OutputPart(query, total_queries, start, start + heads.num_heads * head_dim)]
    for name in (key, value):
        parts += [
            OutputPart(name, total_kvs, head * head_dim, (head + 1) * head_dim)
            for head in heads.kv_heads
        ]
    return parts


def whole_linear(
    weights: WeightScope, name: str, *, num_inputs: int, num_outputs: int, bias: bool = False
) -> ColumnParallelLinear:
    """A layer that every rank computes as a whole: it is too small to be cut."""
    part = OutputPart(name, num_outputs, 0, num_outputs)
    return ColumnParallelLinear(weights, [part], num_inputs=num_inputs, bias=bias)


def even_parts(names: Sequence[str], total_outputs: int, ranks: RankGroup) -> list[OutputPart]:
    """This rank's even share of the outputs of several layers of one width."""
    share = even_range(total_outputs, ranks.rank, ranks.world_size)
    return [OutputPart(name, total_outputs, share.start, share.stop) for name in names]
