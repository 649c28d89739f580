"""What the config.json of a mixture of experts on Llama's frame means."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.llama_config import (
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)


@dataclass(frozen=True, kw_only=True)
class ExpertNames:
    """Modules of the checkpoint."""

    # The module of a layer that holds the experts and the router, `gate`.
    block: str = "mlp"
    gate_up: tuple[str, str] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    # The expert that computes all tokens, and its gate, if it has one.
    shared: str = "shared_expert"
    shared_gate: str | None = "shared_expert_gate"


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(LlamaConfig):
    """Settings of the experts."""

    RENAMED: ClassVar = {"num_experts": "num_local_experts"}

    names: ExpertNames = ExpertNames()
    num_experts: int
    experts_per_token: int
    expert_size: int
    is_normalised: bool
    # Width of the expert that computes all tokens.
    shared_size: int | None = None
    # Layers with an MLP for experts.
    dense_layers: frozenset[int] = frozenset()

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        num_experts = fields.integer("num_experts")
        return {
            **super().settings(fields),
            "num_experts": num_experts,
            "experts_per_token": experts_per_token(fields, "num_experts_per_tok", num_experts, 2),
            "expert_size": fields.integer("moe_intermediate_size", 1),
            "is_normalised": fields.boolean("norm_topk_prob", default=False),
        }


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(MixtureConfig, MistralConfig):
    """Every layer has experts, which are as wide as Mistral's MLP."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        return {
            **super().settings(fields),
            "names": ExpertNames(block="block_sparse_moe", gate_up=("w1", "w3"), down="w2"),
            "expert_size": fields.integer("intermediate_size"),
            "is_normalised": True,
        }


@dataclass(frozen=True, kw_only=True)
class Qwen2MoeConfig(MixtureConfig, Qwen2Config):
    """Small experts and one for all tokens; some layers may have an MLP."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            "qkv_bias": fields.boolean("qkv_bias", default=True),
            "shared_size": fields.integer("shared_expert_intermediate_size"),
            "dense_layers": _dense_layers(fields, common["num_layers"]),
        }


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(MixtureConfig, Qwen3Config):
    """Small experts; some layers may have an MLP."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {**common, "dense_layers": _dense_layers(fields, common["num_layers"])}


def experts_per_token(fields: Fields, key: str, num_experts: int, default: int) -> int:
    """How many experts compute a token."""
    chosen = fields.integer(key, default)
    if chosen > num_experts:
        raise CheckpointError(f"{key} ({chosen}) is more than the {num_experts} experts")
    return chosen


def _dense_layers(fields: Fields, num_layers: int) -> frozenset[int]:
    step, named = fields.integer("decoder_sparse_step", 1), fields.integers("mlp_only_layers")
    return frozenset(
        layer for layer in range(num_layers) if layer in named or (layer + 1) % step != 0
    )
