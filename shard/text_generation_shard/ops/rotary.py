"""Rotary position embedding (Su et al., 2021)."""

import torch
from torch import Tensor


def apply_rotary(
    heads: Tensor, cos: Tensor, signed_sin: Tensor, *, interleaved: bool = False
) -> Tensor:
    """Turn every head by its token's position.

    heads: [tokens, num_heads, head_dim], queries and keys alike.
    cos, signed_sin: [tokens, 1, rotary_dim] of the same dtype; the dimensions from rotary_dim on
    stay as they are. Dimension i turns with i + rotary_dim / 2: both halves of cos are equal, the
    first half of signed_sin is negative. Or, interleaved (GPT-J, Cohere), 2i turns with 2i + 1: the
    values of a pair stand side by side. Returns the shape of heads.
    """
    rotary_dim = cos.shape[-1]
    turning = heads[..., :rotary_dim]
    if interleaved:
        pairs = turning.reshape(*turning.shape[:-1], -1, 2)
        swapped = pairs.flip(-1).flatten(-2)
    else:
        first, second = turning.chunk(2, dim=-1)
        swapped = torch.cat((second, first), dim=-1)
    turned = torch.addcmul(turning * cos, swapped, signed_sin)
    if rotary_dim == heads.shape[-1]:
        return turned
    return torch.cat((turned, heads[..., rotary_dim:]), dim=-1)
