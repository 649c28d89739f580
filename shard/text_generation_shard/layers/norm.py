"""Normalisation layers."""

from torch import Tensor

from text_generation_shard.ops.rms_norm import rms_norm
from text_generation_shard.weights.reader import WeightScope


class RMSNorm:
    """Root mean square normalisation; the same on every rank."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float) -> None:
        self._weight = weights.read("weight", (size,))
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, size]. Returns the same shape and dtype."""
        return rms_norm(x, self._weight, self._eps)
