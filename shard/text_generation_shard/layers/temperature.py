"""Scores that grow with the query's position, so that attention stays sharp over long contexts."""

from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.ops.temperature import log_temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTemperature:
    """1 + strength * log(1 + floor((position + 1) / interval)) (after Nakanishi, 2025)."""

    strength: float
    interval: int

    def __call__(self, positions: Tensor) -> Tensor:
        """positions: int64 [tokens]. Returns float32 [tokens]."""
        return log_temperature(positions, self.strength, self.interval)
