"""Activations of feed-forward layers, by the names that config.json gives them."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.silu_mul import silu_mul
from text_generation_shard.ops.triton import library as triton_library

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
# By all their names.
ACTIVATIONS: Mapping[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation of every element; any shape and dtype, returned as they are."""
    match activation:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up, where the last dimension holds gate and then up.

    gate_up: [tokens, 2 * intermediate]. Returns [tokens, intermediate].
    """
    if triton_library.takes(gate_up):
        from text_generation_shard.ops.triton import activation as kernels

        return kernels.gated_activation(gate_up, activation)
    if activation == "silu":
        return silu_mul(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return activate(gate, activation).mul_(up)
