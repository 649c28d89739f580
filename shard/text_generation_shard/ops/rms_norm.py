"""Root mean square normalisation (Zhang and Sennrich, 2019)."""

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean is taken in float32.

    x: [..., size]; weight: [size], of x's dtype, or float32: then the product is float32 too and
    rounded once (Gemma). Returns x's shape and dtype.
    """
    native = native_operators(x)
    if native is not None:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return native.rms_norm(rows, None, weight, eps).view(x.shape)
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(eps))
    if weight.dtype != x.dtype:
        return (wide * scale).mul_(weight).to(x.dtype)
    return (wide * scale).to(x.dtype).mul_(weight)
