"""Activations of feed-forward layers."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.activation_kind import Activation, ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.cpu.operators import ActivationFields
from text_generation_shard.ops.triton import library as triton_library


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation of every element. x: [tokens, size]. Returns the same shape and dtype."""
    native = native_operators(x)
    if native is not None:
        return native.activate(x, native_activation(activation, is_gated=False))
    match activation:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)


def gated_activation(gate_up: Tensor, activation: GatedActivation) -> Tensor:
    """The last dimension holds gate and then up (Shazeer, 2020).

    gate_up: [tokens, 2 * intermediate]. Returns [tokens, intermediate].
    """
    if triton_library.takes(gate_up):
        from text_generation_shard.ops.triton import activation as kernels

        return kernels.gated_activation(gate_up, activation)
    native = native_operators(gate_up)
    if native is not None:
        return native.activate(gate_up, native_activation(activation, is_gated=True))
    gate, up = gate_up.chunk(2, dim=-1)
    if isinstance(activation, ClampedSwiGLU):
        gate = gate.clamp(max=activation.limit)
        up = up.clamp(-activation.limit, activation.limit)
        return (up + 1) * gate * (gate * activation.alpha).sigmoid()
    return activate(gate, activation).mul_(up)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). x: [tokens, size]. Returns the same shape and dtype."""
    native = native_operators(x)
    if native is not None:
        return native.activate(x, ("softplus", False, 0.0, 0.0))
    return F.softplus(x)


def native_activation(activation: GatedActivation, *, is_gated: bool) -> ActivationFields:
    """As the C++ operators take it."""
    if isinstance(activation, ClampedSwiGLU):
        return "clamped_swiglu", is_gated, activation.limit, activation.alpha
    return activation, is_gated, 0.0, 0.0
