"""Choosing experts: which compute a token, and what their results are weighed by."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.cpu.operators import RuleFields
from text_generation_shard.ops.experts import Routing

# SparseMixer: a score this far below the best one, in parts of the larger of the two, is not
# weighed.
NEAR = 2 * 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """The experts with the highest scores, weighed by them.

    scoring: probabilities; sigmoids; or the products themselves, each of the chosen weighed by its
    probability among those with nearly its score (SparseMixer, Phi-3.5-MoE). is_normalised: the
    weights are made to add up to 1; scale: what they are multiplied by after that.
    groups: experts lie in so many equal groups, one after the other, of which only the best
    chosen_groups are tried; a group is as good as its best group_members experts together.
    choice_bias: float32 [experts], added to scores for the choice alone.
    """

    scoring: Literal["softmax", "sigmoid", "sparse_mixer"]
    experts_per_token: int
    is_normalised: bool = False
    scale: float = 1.0
    groups: int = 1
    chosen_groups: int = 1
    group_members: int = 1
    choice_bias: Tensor | None = None


def route(x: Tensor, weight: Tensor, bias: Tensor | None, rule: RoutingRule) -> Routing:
    """Scores are made of x W^T + bias.

    x: [tokens, hidden]; weight: [experts, hidden] of x's dtype, or float32: then the product is,
    too; bias: [experts]. Weights are of x's dtype.
    """
    native = native_operators(x)
    if native is not None:
        return Routing(*native.route(x, weight, bias, native_rule(rule)))
    scores = F.linear(x.to(weight.dtype), weight, bias)
    if rule.scoring == "sparse_mixer":
        return _mix_sparsely(scores)
    scores = scores.float()
    scores = scores.softmax(-1) if rule.scoring == "softmax" else scores.sigmoid()
    chosen = _candidates(scores, rule).topk(rule.experts_per_token, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if rule.is_normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routing(chosen, (weights * rule.scale).to(x.dtype))


def _candidates(scores: Tensor, rule: RoutingRule) -> Tensor:
    """[tokens, experts]: what is compared; minus infinity outside the best groups."""
    if rule.choice_bias is not None:
        scores = scores + rule.choice_bias
    if rule.chosen_groups == rule.groups:
        return scores
    grouped = scores.view(len(scores), rule.groups, -1)
    best = grouped.topk(rule.group_members, dim=-1).values.sum(-1)
    chosen = best.topk(rule.chosen_groups, dim=-1).indices
    is_out = torch.ones_like(best, dtype=torch.bool).scatter_(-1, chosen, False)
    return grouped.masked_fill(is_out.unsqueeze(-1), -torch.inf).flatten(-2)


def _mix_sparsely(scores: Tensor) -> Routing:
    first = scores.argmax(-1, keepdim=True)
    others = scores.scatter(-1, first, -torch.inf)
    second = others.argmax(-1, keepdim=True)
    weights = [_weigh(scores, scores, first), _weigh(scores, others, second)]
    return Routing(torch.cat((first, second), -1), torch.cat(weights, -1))


def _weigh(scores: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
    """[tokens, 1]: the probability of the chosen, which is the best of the candidates."""
    best = candidates.gather(-1, chosen)
    distance = (best - candidates) / scores.abs().maximum(best)
    near = candidates.masked_fill(distance > NEAR, -torch.inf)
    return near.softmax(-1).gather(-1, chosen)


def native_rule(rule: RoutingRule) -> RuleFields:
    """As the C++ operators take it."""
    return (
        rule.scoring,
        rule.experts_per_token,
        rule.is_normalised,
        rule.scale,
        rule.groups,
        rule.chosen_groups,
        rule.group_members,
        rule.choice_bias,
    )


def weigh_by_gate(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """sigmoid(x . gate) * y (the shared expert of Qwen 2).

    x: [tokens, hidden]; gate: [1, hidden]; y: [tokens, size], which may be overwritten. Returns
    y's shape.
    """
    native = native_operators(x)
    if native is not None:
        native.gate(x, gate, y)
        return y
    return F.linear(x, gate).sigmoid() * y
