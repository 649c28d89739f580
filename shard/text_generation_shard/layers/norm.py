"""Normalisation layers; the same on every rank."""

from collections.abc import Sequence

import torch
from torch import Tensor

from text_generation_shard.ops.norm import NormWeights, add_and_norm, normed
from text_generation_shard.weights.scope import WeightScope


class Norm:
    """What they have in common."""

    def __init__(self, weights: NormWeights) -> None:
        self.weights = weights

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """norm(x) + addend; both [..., size]. Returns the same shape and dtype."""
        return normed(x, self.weights, addend)

    def after_adding(self, stream: Tensor, update: Tensor, *, scale: float = 1.0) -> Tensor:
        """Add scale * update to the stream, in place; returns the stream's norm.

        All: [tokens, size].
        """
        return add_and_norm(stream, update, self.weights, scale=scale)


class RMSNorm(Norm):
    """Root mean square normalisation."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float, offset: float = 0.0) -> None:
        """offset: added to the stored weight; the product is then made in float32 (Gemma)."""
        weight = weights.read("weight", (size,))
        super().__init__(NormWeights(weight.float() + offset if offset else weight, eps))


class UnitNorm(Norm):
    """Root mean square normalisation without a weight."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float) -> None:
        """weights: of which the norm has none, but their dtype and device."""
        super().__init__(NormWeights(weights.empty(size).fill_(1), eps))


class LayerNorm(Norm):
    """Layer normalisation, with or without a bias."""

    def __init__(self, weights: WeightScope, *, size: int, eps: float, bias: bool = True) -> None:
        weight = weights.read("weight", (size,))
        added = weights.read("bias", (size,)) if bias else None
        super().__init__(NormWeights(weight, eps, added, is_centred=True))


class HeadLayerNorm(Norm):
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
        own = weight[torch.tensor(heads, device=weight.device)]
        super().__init__(NormWeights(own, eps, is_centred=True))
