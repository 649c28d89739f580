"""Gated activations: the activation and the product with the other half in one pass."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.activation_kind import ClampedSwiGLU, GatedActivation

_BLOCK = 1024


def gated_activation(gate_up: Tensor, activation: GatedActivation) -> Tensor:
    """Arguments and result as `ops.activation.gated_activation` has them."""
    gate_up = gate_up.contiguous()
    tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    output = torch.empty(tokens, size, dtype=gate_up.dtype, device=gate_up.device)
    if tokens:
        grid = (tokens, triton.cdiv(size, _BLOCK))
        arguments = activation_arguments(activation)
        _gated_kernel[grid](gate_up, output, size, **arguments, BLOCK=_BLOCK)
    return output


def activation_arguments(activation: GatedActivation) -> dict[str, Any]:
    """What `gated` asks for beside gate and up-projection."""
    if isinstance(activation, ClampedSwiGLU):
        limit, alpha = activation.limit, activation.alpha
        return {"limit": limit, "alpha": alpha, "ACTIVATION": "clamped_swiglu"}
    return {"limit": None, "alpha": None, "ACTIVATION": activation}


@triton.jit
def tanh(x):
    """From exp alone: it saturates where exp overflows, and needs no library."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        result = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        result = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        result = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    else:
        tl.static_assert(ACTIVATION == "relu")
        result = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return result


@triton.jit
def gated(gate, up, limit, alpha, ACTIVATION: tl.constexpr):
    """What `ops.activation.GatedActivation` makes of float32 tiles."""
    if ACTIVATION == "clamped_swiglu":
        gate = tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)
        up = tl.clamp(up, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
        result = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
    else:
        result = _activate(gate, ACTIVATION) * up
    return result


@triton.jit
def _gated_kernel(
    gate_up, output, size, limit, alpha, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.program_id(0).to(tl.int64)
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    product = gated(gate, up, limit, alpha, ACTIVATION)
    tl.store(output + row * size + columns, product.to(output.dtype.element_ty), mask=inside)
