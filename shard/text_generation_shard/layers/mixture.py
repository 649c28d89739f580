"""Mixture of experts (Shazeer et al., 2017): every token is computed by a few of many MLPs.

Every rank has a part of every expert, as it has of an MLP: all are equally busy, whatever tokens
choose, and one sum over the ranks is enough.
"""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import Norm
from text_generation_shard.ops.add import add_scaled
from text_generation_shard.ops.mix_experts import Experts, Routing, mix_experts
from text_generation_shard.weights.reader import WeightScope

# For all tokens: from [tokens, hidden] to this rank's addend, the same shape.
SharedExpert = Callable[[Tensor], Tensor]

# From [tokens, hidden]; every rank routes alike.
Router = Callable[[Tensor], Routing]


class SoftmaxRouter:
    """The most probable experts, weighed by their probability."""

    def __init__(
        self,
        weights: WeightScope,
        *,
        hidden_size: int,
        num_experts: int,
        experts_per_token: int,
        is_normalised: bool,
        bias: bool = False,
    ) -> None:
        """is_normalised: the weights of the chosen experts are made to add up to 1."""
        self._weight = weights.read("weight", (num_experts, hidden_size))
        self._bias = weights.read("bias", (num_experts,)) if bias else None
        self._experts_per_token = experts_per_token
        self._is_normalised = is_normalised

    def __call__(self, x: Tensor) -> Routing:
        """x: [tokens, hidden]."""
        probabilities = F.linear(x, self._weight, self._bias).float().softmax(-1)
        chosen = probabilities.topk(self._experts_per_token, dim=-1)
        weights = chosen.values
        if self._is_normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(chosen.indices, weights.to(x.dtype))


class GatedExpert:
    """A shared expert: an MLP that computes all tokens, weighed by sigmoid(gate(x)) (Qwen 2)."""

    def __init__(self, weights: WeightScope, mlp: GatedMLP, *, hidden_size: int) -> None:
        """mlp: not summed over the ranks; weights: those of the gate."""
        self._mlp = mlp
        self._gate = weights.read("weight", (1, hidden_size))

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns this rank's addend, the same shape."""
        return F.linear(x, self._gate).sigmoid() * self._mlp(x)


class MixtureOfExperts:
    """sum over the chosen experts of weight * expert(x), plus the shared expert."""

    def __init__(
        self,
        ranks: RankGroup,
        *,
        router: Router,
        experts: Experts,
        shared: SharedExpert | None = None,
        weighs_inputs: bool = False,
    ) -> None:
        """experts: this rank's part of each; weighs_inputs: a weight multiplies what an expert
        reads, not what it makes of it (Llama 4).
        """
        self._ranks = ranks
        self._router = router
        self._experts = experts
        self._shared = shared
        self._weighs_inputs = weighs_inputs

    def __call__(self, x: Tensor, addend: Tensor | None = None, norm: Norm | None = None) -> Tensor:
        """addend + self(norm(x)); without a norm x is read as it is.

        x, addend: [tokens, hidden], the same tensor or two. Returns x's shape.
        """
        x = x if norm is None else norm(x)
        shared = None if self._shared is None else self._shared(x)
        if self._ranks.world_size > 1:
            total = self._ranks.all_reduce(self._mix(x, shared))
            return total if addend is None else addend + total
        if shared is not None and addend is not None:
            shared = add_scaled(shared, addend, 1.0)
        return self._mix(x, addend if shared is None else shared)

    def _mix(self, x: Tensor, addend: Tensor | None) -> Tensor:
        routing = self._router(x)
        return mix_experts(x, routing, self._experts, addend, weighs_inputs=self._weighs_inputs)
