"""Slopes of ALiBi (Press et al., 2022): how much a head's scores fall with every token's distance.

The paper gives n heads the slopes 2^(-8/n), 2^(-16/n), ..., 2^-8, for n a power of two.
"""

import math

import torch
from torch import Tensor

from text_generation_shard.layers.partition import AttentionShape


def bloom_slopes(shape: AttentionShape, device: torch.device) -> Tensor:
    """Those of a rank, float32 [num_heads], as BLOOM and Falcon choose them.

    Where n is no power of two, the slopes of the power below come first, then every second one of
    the power above.
    """
    total = shape.total_num_heads
    below = 1 << (total.bit_length() - 1)
    slopes = [*_slopes(below, 8.0), *_slopes(2 * below, 8.0)[::2]]
    return _of_rank(slopes, shape, device)


def mpt_slopes(shape: AttentionShape, device: torch.device, *, max_bias: float) -> Tensor:
    """Those of a rank, float32 [num_heads], as MPT chooses them; the last of a power of two is
    2^-max_bias. Where n is none: every second one of the power above, then those in between.
    """
    total = shape.total_num_heads
    above = 1 << (total - 1).bit_length()
    slopes = _slopes(above, max_bias)
    if above != total:
        slopes = [*slopes[1::2], *slopes[::2]]
    return _of_rank(slopes, shape, device)


def _slopes(num_heads: int, max_bias: float) -> list[float]:
    return [math.pow(2.0, -max_bias * (head + 1) / num_heads) for head in range(num_heads)]


def _of_rank(slopes: list[float], shape: AttentionShape, device: torch.device) -> Tensor:
    own = [slopes[head] for head in shape.query_heads]
    return torch.tensor(own, dtype=torch.float32, device=device)
