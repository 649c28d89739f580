"""MXFP4 (Open Compute Project, 2023): 4-bit floats, 32 of which share an exponent."""

import torch
from torch import Tensor

from text_generation_shard.ops.to_device import to_device

# Values that share an exponent.
BLOCK = 32

# What the sixteen codes stand for: a sign, two bits of exponent, one of mantissa.
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = torch.tensor([*_POSITIVE, *(-value for value in _POSITIVE)])

# And the bytes of exponents. Products with powers of two are exact on every device, for which
# `torch.ldexp` is not known.
_POWERS = torch.ldexp(torch.ones(256), torch.arange(256) - 127)


def widen(codes: Tensor, exponents: Tensor) -> Tensor:
    """float32 [rows, columns], columns 32 for each block.

    codes: uint8 [rows, blocks, 16], two in each, the lower bits first; exponents: uint8 [rows,
    blocks], on the same device.
    """
    values, powers = to_device(_VALUES, codes.device), to_device(_POWERS, codes.device)
    pairs = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(2)
    return (values[pairs.int()] * powers[exponents.int()][..., None]).flatten(1)
