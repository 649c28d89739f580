"""Root mean square normalisation (Zhang and Sennrich, 2019)."""

import torch
from torch import Tensor

from text_generation_shard.ops.triton import library as triton_library


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean is taken in float32.

    x: [..., size]; weight: [size], of x's dtype, or float32: then the product is float32 too and
    rounded once (Gemma). Returns x's shape and dtype.
    """
    if triton_library.takes(x):
        from text_generation_shard.ops.triton import norm

        return norm.rms_norm(x, weight, eps)
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(eps))
    if weight.dtype != x.dtype:
        return (wide * scale).mul_(weight).to(x.dtype)
    return (wide * scale).to(x.dtype).mul_(weight)


def add_rms_norm(
    stream: Tensor, update: Tensor, weight: Tensor, eps: float, *, alpha: float = 1.0
) -> Tensor:
    """Add alpha * update to the stream, in place; returns the stream's norm, as `rms_norm` has it.

    stream, update: [tokens, size], contiguous.
    """
    if triton_library.takes(stream):
        from text_generation_shard.ops.triton import norm

        return norm.add_rms_norm(stream, update, weight, eps, alpha)
    return rms_norm(stream.add_(update, alpha=alpha), weight, eps)
