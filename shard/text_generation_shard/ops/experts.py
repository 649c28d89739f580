"""A mixture's experts, and which of them compute a token."""

from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.ops.activation_kind import GatedActivation
from text_generation_shard.ops.linear import MatrixStack


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts compute a token; [tokens, experts_per_token] each.

    expert_ids: int64; weights: what the experts' outputs are multiplied by.
    """

    expert_ids: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """down(activation(gate(x), up(x))) of every expert.

    gate_up: [2 * size, hidden] each, gates first; down: [hidden, size] each; biases: [num_experts,
    2 * size] and [num_experts, hidden].
    """

    gate_up: MatrixStack
    down: MatrixStack
    activation: GatedActivation
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None
