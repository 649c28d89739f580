"""DeepSeek's choice of experts: only from the best groups (DeepSeek-AI, 2024)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.mix_experts import Routing
from text_generation_shard.weights.reader import WeightScope


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGroups:
    """Experts lie in `total` equal groups, one after the other; `chosen` of them are tried."""

    total: int = 1
    chosen: int = 1


class GroupedRouter:
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
        self._weight = weights.read("weight", (num_experts, hidden_size)).float()
        self._bias = None
        if is_biased:
            self._bias = torch.empty(num_experts, dtype=torch.float32, device=weights.device)
            weights.read_into(self._bias, "e_score_correction_bias", shape=(num_experts,))
        self._experts_per_token = experts_per_token
        self._is_normalised = is_normalised
        self._groups = groups
        self._scale = scale

    def __call__(self, x: Tensor) -> Routing:
        """x: [tokens, hidden]."""
        scores = F.linear(x.float(), self._weight)
        scores = scores.softmax(-1) if self._bias is None else scores.sigmoid()
        chosen = self._candidates(scores).topk(self._experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if self._is_normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return Routing(chosen, (weights * self._scale).to(x.dtype))

    def _candidates(self, scores: Tensor) -> Tensor:
        """[tokens, num_experts]: what is compared; minus infinity outside the best groups."""
        if self._bias is not None:
            scores = scores + self._bias
        groups = self._groups
        if groups.chosen == groups.total:
            return scores
        grouped = scores.view(len(scores), groups.total, -1)
        best = grouped.topk(1 if self._bias is None else 2, dim=-1).values.sum(-1)
        chosen = best.topk(groups.chosen, dim=-1).indices
        is_out = torch.ones_like(best, dtype=torch.bool).scatter_(-1, chosen, False)
        return grouped.masked_fill(is_out.unsqueeze(-1), -torch.inf).flatten(-2)
