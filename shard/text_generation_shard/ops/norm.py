"""Norms over the last dimension: root mean square, and layer normalisation."""

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.layer_norm import layer_norm
from text_generation_shard.ops.rms_norm import add_rms_norm, rms_norm
from text_generation_shard.ops.triton import library as triton_library


class NormWeights(NamedTuple):
    """Of `rms_norm` or, centred, of `layer_norm`, which alone has a bias.

    weight: [size], or [heads, size] where every head has its own; bias: [size].
    """

    weight: Tensor
    eps: float
    bias: Tensor | None = None
    is_centred: bool = False


def normed(x: Tensor, norm: NormWeights, addend: Tensor | None = None) -> Tensor:
    """norm(x) + addend.

    x, addend: [..., size], or [..., heads, size]. Returns x's shape and dtype.
    """
    native = native_operators(x) if norm.weight.dim() == 1 else None
    if native is not None and not triton_library.takes(x):
        rows = x if x.dim() == 2 and x.stride(1) == 1 else x.reshape(-1, x.shape[-1]).contiguous()
        return native.norm(rows, norm, addend).view(x.shape)
    made = _normed(x, norm)
    return made if addend is None else addend + made


def add_and_norm(
    stream: Tensor, update: Tensor, norm: NormWeights, *, scale: float = 1.0
) -> Tensor:
    """Add scale * update to the stream, in place; returns the stream's norm.

    stream, update: [tokens, size], contiguous.
    """
    native = native_operators(stream)
    if native is not None and not triton_library.takes(stream):
        return native.add_and_norm(stream, update, scale, norm)
    if not norm.is_centred:
        return add_rms_norm(stream, update, norm.weight, norm.eps, alpha=scale)
    return _normed(stream.add_(update, alpha=scale), norm)


def _normed(x: Tensor, norm: NormWeights) -> Tensor:
    if not norm.is_centred:
        return rms_norm(x, norm.weight, norm.eps)
    if norm.weight.dim() == 1:
        return layer_norm(x, norm.weight, norm.bias, norm.eps)
    scaled = F.layer_norm(x, x.shape[-1:], eps=norm.eps) * norm.weight
    return scaled if norm.bias is None else scaled + norm.bias
