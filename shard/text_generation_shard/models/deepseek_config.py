"""What the config.json of DeepSeek V2 and V3 means."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.errors import CheckpointError
from text_generation_shard.layers.grouped_routing import ExpertGroups
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.mixture_config import ExpertNames, MixtureConfig
from text_generation_shard.models.rope_config import rotary_settings


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig(MixtureConfig):
    """What V2 and V3 share: latent attention, small experts, and some for all tokens.

    `head_dim` and `total_num_kv_heads` are those of the cache: one latent vector and turned key.
    """

    RENAMED: ClassVar = {"num_experts": "n_routed_experts"}

    latent_dim: int
    query_dim: int | None
    plain_dim: int
    turned_dim: int
    value_dim: int
    # Whether the dimensions that turn with each other stand side by side.
    is_interleaved: bool
    groups: ExpertGroups
    # What the weights of chosen experts are multiplied by.
    routing_scale: float
    # V3: experts are chosen by a score and a bias.
    is_biased: bool
    # Layers after the last one that predict further tokens; they are not served.
    num_draft_layers: int = 0

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("mlp_bias", unless=False)
        common = super().settings(fields)
        latent, turned = fields.integer("kv_lora_rank", 512), fields.integer("qk_rope_head_dim", 64)
        plain = fields.integer("qk_nope_head_dim", 128)
        rotary = rotary_settings(fields, head_dim=turned)
        return {
            **common,
            **rotary,
            "head_dim": latent + turned,
            "total_num_kv_heads": 1,
            "latent_dim": latent,
            "query_dim": fields.integer_unless_null("q_lora_rank", 1536),
            "plain_dim": plain,
            "turned_dim": turned,
            "value_dim": fields.integer("v_head_dim", 128),
            "attention_scale": (plain + turned) ** -0.5,
            "is_interleaved": fields.boolean("rope_interleave", default=True),
            "names": ExpertNames(shared="shared_experts", shared_gate=None),
            "shared_size": common["expert_size"] * fields.integer("n_shared_experts"),
            "dense_layers": _dense_layers(fields, common["num_layers"]),
            "routing_scale": fields.number("routed_scaling_factor"),
        }


@dataclass(frozen=True, kw_only=True)
class DeepseekV2Config(DeepseekConfig):
    """DeepSeek V2, V2.5 and V2-Lite: probabilities, and groups or none."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields = fields.with_defaults(
            n_shared_experts=2,
            moe_intermediate_size=1407,
            first_k_dense_replace=0,
            routed_scaling_factor=1.0,
            topk_method="greedy",
        )
        fields.refuse("scoring_func", unless="softmax")
        # Implementations do not agree on whether the factor is then left out.
        fields.refuse("norm_topk_prob", unless=False)
        fields.refuse("rope_interleave", unless=True)
        has_groups = fields.text("topk_method") == "group_limited_greedy"
        if not has_groups:
            fields.refuse("topk_method", unless="greedy")
        common = super().settings(fields)
        groups = _groups(fields, common, smallest=1) if has_groups else ExpertGroups()
        return {**common, "is_biased": False, "groups": groups}


@dataclass(frozen=True, kw_only=True)
class DeepseekV3Config(DeepseekConfig):
    """DeepSeek V3, V3.1 and R1, Kimi K2 and Moonlight: sigmoids, a bias for the choice."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields = fields.with_defaults(
            n_shared_experts=1,
            n_routed_experts=256,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            num_experts_per_tok=8,
            routed_scaling_factor=2.5,
            n_group=8,
            topk_group=4,
            norm_topk_prob=True,
        )
        fields.refuse("scoring_func", unless="sigmoid")
        fields.refuse("topk_method", unless="noaux_tc")
        common = super().settings(fields)
        return {
            **common,
            "is_biased": True,
            "groups": _groups(fields, common, smallest=2),
            "num_draft_layers": fields.count("num_nextn_predict_layers", 1),
        }


def _groups(fields: Fields, common: dict[str, Any], *, smallest: int) -> ExpertGroups:
    """smallest: experts of a group by which it is compared with others."""
    groups = ExpertGroups(total=fields.integer("n_group"), chosen=fields.integer("topk_group"))
    experts, size = common["num_experts"], common["num_experts"] // groups.total
    if experts % groups.total or (size < smallest and groups.total > 1):
        raise CheckpointError(
            f"n_group ({groups.total}) does not divide n_routed_experts ({experts}) into groups "
            f"of {smallest} or more"
        )
    if not common["experts_per_token"] <= groups.chosen * size <= experts:
        raise CheckpointError(
            f"topk_group ({groups.chosen}) groups of {size} of {experts} experts do not hold "
            f"num_experts_per_tok ({common['experts_per_token']})"
        )
    return groups


def _dense_layers(fields: Fields, num_layers: int) -> frozenset[int]:
    """The first ones, and of the others those between every so many."""
    first, step = fields.count("first_k_dense_replace"), fields.integer("moe_layer_freq", 1)
    return frozenset(layer for layer in range(num_layers) if layer < first or layer % step)
