"""What recurrent layers keep of a sequence: a state of fixed size in its slot, no blocks.

A state is what all tokens so far made of it. It cannot be cut, shared or taken back: a sequence
that is admitted starts from zeros, and a step that was rejected leaves the states of its sequences
worthless until they are admitted again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentSpec:
    """What one rank's layers keep of every sequence, however long it is."""

    num_layers: int
    # Of this rank.
    num_channels: int
    # Inputs before the current one that the convolution sees.
    num_past_inputs: int
    # Numbers of the state space per channel, kept in float32.
    state_size: int
    # Of the past inputs.
    dtype: torch.dtype

    @property
    def slot_bytes(self) -> int:
        """Bytes per sequence, all layers together."""
        channel_bytes = self.num_past_inputs * self.dtype.itemsize + self.state_size * 4
        return self.num_layers * self.num_channels * channel_bytes


@dataclass(frozen=True, slots=True)
class LayerState:
    """One layer's states.

    conv: [slots, past inputs, channels], the last inputs of the convolution, oldest first;
    ssm: float32 [slots, state_size, channels]: channels lie side by side, as in the activations.
    """

    conv: Tensor
    ssm: Tensor


@dataclass(frozen=True, slots=True)
class RecurrentStates:
    """All layers' states, one tensor [layers, slots, ...] for each kind."""

    conv: Tensor
    ssm: Tensor

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """Views, layer by layer."""
        return tuple(map(LayerState, self.conv, self.ssm))

    def clear(self, slots: Tensor) -> None:
        """Start sequences from nothing. slots: int64 [sequences]. Whatever was there, also no
        number, is gone.
        """
        self.conv.index_fill_(1, slots, 0)
        self.ssm.index_fill_(1, slots, 0)
