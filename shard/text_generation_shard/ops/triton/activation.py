"""Gated activations: the activation and the product with the other half in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def gated_activation(gate_up: Tensor, activation: str) -> Tensor:
    """Arguments and result as `ops.activation.gated_activation` has them."""
    gate_up = gate_up.contiguous()
    tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    output = torch.empty(tokens, size, dtype=gate_up.dtype, device=gate_up.device)
    if tokens:
        grid = (tokens, triton.cdiv(size, _BLOCK))
        _gated_kernel[grid](gate_up, output, size, ACTIVATION=activation, BLOCK=_BLOCK)
    return output


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
def _gated_kernel(gate_up, output, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.program_id(0).to(tl.int64)
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    product = _activate(gate, ACTIVATION) * up
    tl.store(output + row * size + columns, product.to(output.dtype.element_ty), mask=inside)
