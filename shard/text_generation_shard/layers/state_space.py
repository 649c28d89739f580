"""The selective state space of Mamba (Gu and Dao, 2023), its channels cut over the ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    OutputPart,
    RowParallelLinear,
    even_parts,
)
from text_generation_shard.layers.norm import UnitNorm
from text_generation_shard.layers.partition import even_range
from text_generation_shard.ops.activation import softplus
from text_generation_shard.ops.causal_conv import causal_conv
from text_generation_shard.ops.selective_scan import ScanInputs, selective_scan
from text_generation_shard.ops.sequence_rows import SequenceRows
from text_generation_shard.recurrent_state import LayerState
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpaceShape:
    """Of the whole model."""

    hidden_size: int
    num_channels: int
    state_size: int
    # Inputs that the convolution sees, and the width through which step sizes pass.
    kernel: int
    step_rank: int

    def channels(self, ranks: RankGroup) -> range:
        """A rank's part of the channels; CapacityError if they cannot be cut evenly."""
        if self.num_channels % ranks.world_size:
            raise CapacityError(
                f"expand * hidden_size ({self.num_channels}) cannot be divided among "
                f"{ranks.world_size} shards (--num-shard)"
            )
        return even_range(self.num_channels, ranks.rank, ranks.world_size)


class SelectiveStateSpace:
    """Project in, convolve, scan, gate, project out; two collectives, for steps and for outputs."""

    def __init__(
        self,
        weights: WeightScope,
        ranks: RankGroup,
        shape: StateSpaceShape,
        *,
        bias: bool,
        conv_bias: bool,
        norm_eps: float | None = None,
    ) -> None:
        """bias: of the projections in and out; norm_eps: of a norm without weights that the steps'
        input and what is written and read pass through (Falcon Mamba); None: there is none.
        """
        channels = shape.channels(ranks)
        self._shape, self._norms = shape, None
        if norm_eps is not None:
            widths = {shape.step_rank, shape.state_size}
            self._norms = {width: UnitNorm(weights, size=width, eps=norm_eps) for width in widths}
        self._in = ColumnParallelLinear(
            weights, _value_and_gate(shape, channels), num_inputs=shape.hidden_size, bias=bias
        )
        self._conv_weight, self._conv_bias = _convolution(
            weights.scope("conv1d"), shape, channels, bias=conv_bias
        )
        self._select = RowParallelLinear(
            weights.scope("x_proj"),
            ranks,
            inputs=channels,
            total_inputs=shape.num_channels,
            num_outputs=shape.step_rank + 2 * shape.state_size,
            bias=False,
        )
        self._steps = ColumnParallelLinear(
            weights,
            even_parts(("dt_proj",), shape.num_channels, ranks),
            num_inputs=shape.step_rank,
            bias=True,
        )
        self._rates = _wide(weights, "A_log", shape, channels, shape.state_size)
        self._rates = self._rates.exp().neg().t().contiguous()
        self._skip = _wide(weights, "D", shape, channels)
        self._out = RowParallelLinear(
            weights.scope("out_proj"),
            ranks,
            inputs=channels,
            total_inputs=shape.num_channels,
            num_outputs=shape.hidden_size,
            bias=bias,
        )

    def __call__(
        self, x: Tensor, rows: SequenceRows, state: LayerState, *, addend: Tensor | None = None
    ) -> Tensor:
        """What is made of x, plus the addend, which may be overwritten; carries the sequences'
        state on. x, addend: [tokens, hidden]. Returns x's shape.
        """
        values, gates = self._in(x).chunk(2, dim=-1)
        values = causal_conv(values, self._conv_weight, self._conv_bias, state.conv, rows)
        size = self._shape.state_size
        widths = [self._shape.step_rank, size, size]
        parts = torch.split(self._select(values), widths, dim=-1)
        steps, writes, reads = map(self._normed, parts)
        inputs = ScanInputs(
            values=values,
            steps=softplus(self._steps(steps)),
            gates=gates,
            writes=writes,
            reads=reads,
        )
        scanned = selective_scan(inputs, self._rates, self._skip, state.ssm, rows)
        return self._out(scanned, addend)

    def _normed(self, x: Tensor) -> Tensor:
        """x: [tokens, step_rank], or [tokens, state_size]."""
        return x if self._norms is None else self._norms[x.shape[-1]](x)


def _value_and_gate(shape: StateSpaceShape, channels: range) -> list[OutputPart]:
    """Of one stored layer: the channels' values, then their gates."""
    total = 2 * shape.num_channels
    return [
        OutputPart("in_proj", total, first + channels.start, first + channels.stop)
        for first in (0, shape.num_channels)
    ]


def _convolution(
    weights: WeightScope, shape: StateSpaceShape, channels: range, *, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """[kernel, channels], and [channels] if there is a bias."""
    stored = weights.empty(len(channels), 1, shape.kernel)
    total = (shape.num_channels, 1, shape.kernel)
    weights.read_into(stored, "weight", shape=total, start=channels.start)
    added = weights.empty(len(channels)) if bias else None
    if added is not None:
        weights.read_into(added, "bias", shape=total[:1], start=channels.start)
    return stored[:, 0].t().contiguous(), added


def _wide(
    weights: WeightScope, name: str, shape: StateSpaceShape, channels: range, *width: int
) -> Tensor:
    """Float32 [channels, *width], whatever the model is computed in."""
    wide = torch.empty(len(channels), *width, dtype=torch.float32, device=weights.device)
    weights.read_into(wide, name, shape=(shape.num_channels, *width), start=channels.start)
    return wide
