"""MXFP4 (Open Compute Project, 2023): 4-bit floats, 32 of which share an exponent."""

import torch
from torch import Tensor

# Values that share an exponent.
BLOCK = 32

# What the sixteen codes stand for: a sign, two bits of exponent, one of mantissa.
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = torch.tensor([*_POSITIVE, *(-value for value in _POSITIVE)])

_EXPONENT_BIAS = 127


def widen(codes: Tensor, exponents: Tensor) -> Tensor:
    """float32 [rows, columns], columns 32 for each block.

    codes: uint8 [rows, blocks, 16], two in each, the lower bits first; exponents: uint8 [rows,
    blocks].
    """
    pairs = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(2)
    return torch.ldexp(_VALUES[pairs.int()], exponents.int()[..., None] - _EXPONENT_BIAS).flatten(1)
