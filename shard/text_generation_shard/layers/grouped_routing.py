"""DeepSeek's choice of experts: only from the best groups (DeepSeek-AI, 2024)."""

from dataclasses import dataclass

import torch

from text_generation_shard.layers.mixture import ExpertRouter
from text_generation_shard.ops.route import RoutingRule
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGroups:
    """Experts lie in `total` equal groups, one after the other; `chosen` of them are tried."""

    total: int = 1
    chosen: int = 1


class GroupedRouter(ExpertRouter):
    """The best experts of the best groups, weighed by their scores times `scale`.

    DeepSeek V2: scores are probabilities, a group is as good as its best expert. V3: scores are
    sigmoids; for the choice alone a bias of each expert is added, by which training keeps experts
    equally busy, and a group is as good as its two best experts together.
    """

    def __init__(
        self,
        weights: WeightScope,
        *,
        hidden_size: int,
        num_experts: int,
        experts_per_token: int,
        is_normalised: bool,
        groups: ExpertGroups,
        scale: float,
        is_biased: bool,
    ) -> None:
        """is_normalised: the weights of the chosen experts are made to add up to `scale`;
        is_biased: as in V3.
        """
        bias = None
        if is_biased:
            bias = torch.empty(num_experts, dtype=torch.float32, device=weights.device)
            weights.read_into(bias, "e_score_correction_bias", shape=(num_experts,))
        rule = RoutingRule(
            scoring="sigmoid" if is_biased else "softmax",
            experts_per_token=experts_per_token,
            is_normalised=is_normalised,
            scale=scale,
            groups=groups.total,
            chosen_groups=groups.chosen,
            group_members=2 if is_biased and groups.chosen < groups.total else 1,
            choice_bias=bias,
        )
        super().__init__(weights.read("weight", (num_experts, hidden_size)).float(), rule)
