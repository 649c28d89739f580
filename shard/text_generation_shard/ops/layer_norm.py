"""Layer normalisation (Ba et al., 2016)."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.triton import library as triton_library


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension.

    x: [..., size]; weight, bias: [size], of x's dtype. Returns x's shape and dtype.
    """
    if triton_library.takes(x):
        from text_generation_shard.ops.triton import norm

        return norm.layer_norm(x, weight, bias, eps)
    return F.layer_norm(x, weight.shape, weight, bias, eps)
