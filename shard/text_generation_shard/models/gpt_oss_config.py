"""What the config.json of gpt-oss means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.config import read_layer_windows
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.mixture_config import MixtureConfig, experts_per_token
from text_generation_shard.models.rope_config import rotary_settings

_ROPE = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(MixtureConfig):
    """gpt-oss 20B and 120B."""

    # Of the experts' activation.
    alpha: float
    limit: float

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """MXFP4 is known by its tensors."""
        method = Fields(config).section("quantization_config").optional_text("quant_method")
        if method not in (None, "mxfp4"):
            raise CheckpointError(
                f"quantization_config: quant_method {method!r} is not supported for this model"
            )
        return super().from_hf({**config, "quantization_config": None})

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields = fields.with_defaults(
            head_dim=64,
            num_key_value_heads=8,
            num_local_experts=128,
            intermediate_size=2880,
            attention_bias=True,
            max_position_embeddings=131072,
        )
        if not fields.has("rope_parameters") and not fields.has("rope_scaling"):
            fields = fields.with_defaults(rope_parameters={**_ROPE, "truncate": False})
        common = super().settings(fields)
        num_experts, num_layers = common["num_experts"], common["num_layers"]
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"], theta=150000.0),
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-5),
            "layer_windows": read_layer_windows(
                fields, num_layers, default_window=128, is_sliding=lambda layer: layer % 2 == 0
            ),
            "has_sinks": True,
            "expert_size": common["intermediate_size"],
            "experts_per_token": experts_per_token(fields, "num_experts_per_tok", num_experts, 4),
            "alpha": fields.number("swiglu_alpha", 1.702),
            "limit": fields.number("swiglu_limit", 7.0),
        }
