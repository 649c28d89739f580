"""Rotary position embedding (Su et al., 2021), dimension i turning with i + d/2."""

import torch
from torch import Tensor


def apply_rotary(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn every head by its token's position.

    heads: [tokens, num_heads, head_dim], queries and keys alike.
    cos, signed_sin: [tokens, 1, head_dim] of the same dtype; both halves of cos are equal, the
    first half of signed_sin is negative. Returns the shape of heads.
    """
    first, second = heads.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin)
