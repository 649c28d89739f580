"""A factor of scores that grows with the query's position (after Nakanishi, 2025)."""

import torch
from torch import Tensor

from text_generation_shard.ops.cpu import library


def log_temperature(positions: Tensor, strength: float, interval: int) -> Tensor:
    """1 + strength * log(1 + floor((position + 1) / interval)).

    positions: int64 [tokens]. Returns float32 [tokens].
    """
    native = library.operators() if positions.device.type == "cpu" else None
    if native is not None:
        return native.temperature(positions, strength, interval)
    intervals = ((positions + 1) // interval).to(torch.float32)
    return intervals.log1p() * strength + 1
