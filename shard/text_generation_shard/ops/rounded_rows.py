"""Rows of keys and values in 8-bit integers, each with a scale of its own.

A row is one token's key or value of one head. Its scale is bfloat16: of float32's range, and so
near to the one that is meant that the largest number of a row still rounds to 127.

Keys of most trained models have a few dimensions that are far larger than the others, and a scale
for them leaves little of the rest. So keys are spread before they are rounded: turned by a
Walsh-Hadamard matrix, which leaves the scores what they are where queries are turned, too (Ashkboos
et al., QuaRot, 2024).
"""

import math

import torch
from torch import Tensor

SCALE_DTYPE = torch.bfloat16
_LARGEST = 127.0


def spread(x: Tensor) -> Tensor:
    """Every row times the orthogonal Walsh-Hadamard matrix, in blocks of the largest power of two
    that divides head_dim. x: [..., head_dim], any float; returns the same.
    """
    size = x.shape[-1] & -x.shape[-1]
    wide, distance = x.float(), 1
    while distance < size:
        first, second = wide.reshape(*x.shape[:-1], -1, 2, distance).unbind(-2)
        wide = torch.stack((first + second, first - second), dim=-2).reshape(x.shape)
        distance *= 2
    return (wide * (1 / math.sqrt(size))).to(x.dtype)


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The product of the results is the rows to half a scale, or not finite where a row is not.

    rows: [..., head_dim], any float. Returns int8 of this shape, and bfloat16 [...].
    """
    wide = rows.float()
    scales = (wide.abs().amax(-1) / _LARGEST).to(SCALE_DTYPE)
    numbers = (wide / scales.float().unsqueeze(-1)).nan_to_num_(0.0)
    return numbers.round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8), scales
