"""Rotary embedding: how far each position turns queries and keys."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.models.config import RopeConfig


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotations of one step's tokens, shared by all layers.

    cos, signed_sin: [tokens, 1, head_dim], see `ops.rotary`.
    """

    cos: Tensor
    signed_sin: Tensor


class RotaryEmbedding:
    """Rotations from positions.

    A position's rotation depends on the position alone, never on how long its sequence has become
    or will be: cached keys stay right. For dynamic (NTK-aware) scaling this means that position p
    turns as in a sequence that ends there; transformers turns a whole prompt by the prompt's length
    instead, so the two agree up to the original length, and beyond it token by token.
    """

    def __init__(
        self, config: RopeConfig, *, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._dtype = dtype
        # [head_dim / 2]
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        self._exponents = exponents
        self._dynamic_power = head_dim / (head_dim - 2) if head_dim > 2 else 1.0
        self._frequencies = _scaled(1.0 / config.theta**exponents, config)

    def __call__(self, positions: Tensor) -> Rotation:
        """positions: int64 [tokens]."""
        angles = positions[:, None].float() * self._frequencies_at(positions)
        cos, sin = angles.cos(), angles.sin()
        return Rotation(
            torch.cat((cos, cos), dim=-1).unsqueeze(1).to(self._dtype),
            torch.cat((-sin, sin), dim=-1).unsqueeze(1).to(self._dtype),
        )

    def _frequencies_at(self, positions: Tensor) -> Tensor:
        """[head_dim / 2], or [tokens, head_dim / 2] where the position decides."""
        config = self._config
        if config.kind != "dynamic":
            return self._frequencies
        lengths = (positions + 1).clamp(min=config.original_max_positions).float()
        stretch = config.factor * lengths / config.original_max_positions - (config.factor - 1)
        theta = config.theta * stretch**self._dynamic_power
        return 1.0 / theta[:, None] ** self._exponents


def _scaled(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Frequencies after the scaling that does not depend on the position; [head_dim / 2]."""
    if config.kind == "linear":
        return frequencies / config.factor
    if config.kind == "llama3":
        return _llama3(frequencies, config)
    return frequencies


def _llama3(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Llama 3.1: slow frequencies are divided, fast ones kept, those between are blended."""
    turns = config.original_max_positions * frequencies / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * keep + frequencies / config.factor * (1 - keep)
