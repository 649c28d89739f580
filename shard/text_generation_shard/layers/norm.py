"""Normalisation layers; the same on every rank."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from text_generation_shard.ops.layer_norm import layer_norm
from text_generation_shard.ops.rms_norm import add_rms_norm, rms_norm
from text_generation_shard.weights.reader import WeightScope

# [..., size] to the same
Norm = Callable[[Tensor], Tensor]


class RMSNorm:
    """Root mean square normalisation."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float, offset: float = 0.0) -> None:
        """offset: added to the stored weight; the product is then made in float32 (Gemma)."""
        weight = weights.read("weight", (size,))
        self.weight = weight.float() + offset if offset else weight
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., size]. Returns the same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, stream: Tensor, update: Tensor, *, scale: float = 1.0) -> Tensor:
        """Add scale * update to the stream, in place; returns the stream's norm.

        All: [tokens, size].
        """
        return add_rms_norm(stream, update, self.weight, self.eps, alpha=scale)


class UnitNorm:
    """Root mean square normalisation without a weight."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float) -> None:
        """weights: of which the norm has none, but their dtype and device."""
        self._ones = weights.empty(size).fill_(1)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., size]. Returns the same shape and dtype."""
        return rms_norm(x, self._ones, self._eps)


class LayerNorm:
    """Layer normalisation, with or without a bias."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float, bias: bool = True) -> None:
        self._weight = weights.read("weight", (size,))
        self._bias = weights.read("bias", (size,)) if bias else None
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., size]. Returns the same shape and dtype."""
        return layer_norm(x, self._weight, self._bias, self._eps)


class HeadLayerNorm:
    """Layer normalisation of every head with a weight of its own, for the heads of one rank."""

    def __init__(
        self,
        weights: WeightScope,
        *,
        total_heads: int,
        heads: Sequence[int],
        head_dim: int,
        eps: float,
    ) -> None:
        weight = weights.read("weight", (total_heads, head_dim))
        self._weight = weight[torch.tensor(heads, device=weight.device)]
        self._ones = torch.ones(head_dim, dtype=weight.dtype, device=weight.device)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, heads, head_dim]. Returns the same shape and dtype."""
        return layer_norm(x, self._ones, None, self._eps) * self._weight
