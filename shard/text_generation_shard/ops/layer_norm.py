"""Layer normalisation (Ba et al., 2016)."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension.

    x: [..., size]; weight, bias: [size], of x's dtype. Returns x's shape and dtype.
    """
    return F.layer_norm(x, weight.shape, weight, bias, eps)
