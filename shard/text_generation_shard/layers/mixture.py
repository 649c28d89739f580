"""Mixture of experts (Shazeer et al., 2017): every token is computed by a few of many MLPs.

Every rank has a part of every expert, as it has of an MLP: all are equally busy, whatever tokens
choose, and one sum over the ranks is enough.
"""

from collections.abc import Callable

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import Norm
from text_generation_shard.ops.add import add_scaled
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.mix_experts import mix_experts
from text_generation_shard.ops.route import RoutingRule, route, weigh_by_gate
from text_generation_shard.weights.scope import WeightScope

# For all tokens: from [tokens, hidden] to this rank's addend, the same shape.
SharedExpert = Callable[[Tensor], Tensor]

# From [tokens, hidden]; every rank routes alike.
Router = Callable[[Tensor], Routing]


class ExpertRouter:
    """One product, and a rule by which experts are chosen."""

    def __init__(self, weight: Tensor, rule: RoutingRule, *, bias: Tensor | None = None) -> None:
        """weight: [num_experts, hidden]; bias: [num_experts]."""
        self._weight = weight
        self._bias = bias
        self._rule = rule

    def __call__(self, x: Tensor) -> Routing:
        """x: [tokens, hidden]."""
        return route(x, self._weight, self._bias, self._rule)


class SoftmaxRouter(ExpertRouter):
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
        rule = RoutingRule(
            scoring="softmax", experts_per_token=experts_per_token, is_normalised=is_normalised
        )
        added = weights.read("bias", (num_experts,)) if bias else None
        super().__init__(weights.read("weight", (num_experts, hidden_size)), rule, bias=added)


class GatedExpert:
    """A shared expert: an MLP that computes all tokens, weighed by sigmoid(gate(x)) (Qwen 2)."""

    def __init__(self, weights: WeightScope, mlp: GatedMLP, *, hidden_size: int) -> None:
        """mlp: not summed over the ranks; weights: those of the gate."""
        self._mlp = mlp
        self._gate = weights.read("weight", (1, hidden_size))

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]. Returns this rank's addend, the same shape."""
        return weigh_by_gate(x, self._gate, self._mlp(x))


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
