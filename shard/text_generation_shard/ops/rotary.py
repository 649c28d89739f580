"""Rotary position embedding (Su et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


class Rotation(NamedTuple):
    """How far each token turns, for queries and keys alike.

    cos, signed_sin: [tokens, 1, rotary_dim] of the heads' dtype; the dimensions from rotary_dim on
    stay as they are. Dimension i turns with i + rotary_dim / 2: both halves of cos are equal, the
    first half of signed_sin is negative. Or, interleaved (GPT-J, Cohere), 2i turns with 2i + 1: the
    values of a pair stand side by side.
    """

    cos: Tensor
    signed_sin: Tensor
    is_interleaved: bool = False


def rotation(
    positions: Tensor,
    frequencies: Tensor,
    *,
    factor: float,
    is_interleaved: bool,
    dtype: torch.dtype,
) -> Rotation:
    """Of angles position * frequency; cosines and sines are multiplied by `factor`.

    positions: int64 [tokens]; frequencies: float32 [rotary_dim / 2], or of each token [tokens,
    rotary_dim / 2]; dtype: of the result.
    """
    native = native_operators(frequencies) if dtype is torch.float32 else None
    if native is not None:
        made = native.rotation(positions, frequencies, factor, is_interleaved)
        return Rotation(*made, is_interleaved)
    angles = positions[:, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    if factor != 1:
        cos, sin = cos * factor, sin * factor
    cos, signed_sin = (
        torch.stack(pair, -1).flatten(1) if is_interleaved else torch.cat(pair, -1)
        for pair in ((cos, cos), (-sin, sin))
    )
    return Rotation(cos.unsqueeze(1).to(dtype), signed_sin.unsqueeze(1).to(dtype), is_interleaved)


def apply_rotary(
    heads: Tensor, cos: Tensor, signed_sin: Tensor, *, interleaved: bool = False
) -> Tensor:
    """Turn every head by its token's position.

    heads: [tokens, num_heads, head_dim]; cos, signed_sin: see `Rotation`. Returns heads' shape.
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


def turn(heads: Tensor, by: Rotation | None) -> Tensor:
    """As `apply_rotary`; None leaves them as they are."""
    if by is None:
        return heads
    return apply_rotary(heads, by.cos, by.signed_sin, interleaved=by.is_interleaved)
