"""What the config.json of Command R and its successors means."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.models.config import ModelConfig, read_layer_windows
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.ops.activation_kind import Activation


@dataclass(frozen=True, kw_only=True)
class CohereConfig(ModelConfig):
    """Command R and R+; the latter norms queries and keys."""

    intermediate_size: int
    layer_norm_eps: float
    activation: Activation
    attention_bias: bool
    logits_scale: float
    has_qk_norms: bool
    # Whether only layers with a sliding window turn positions.
    is_rope_local: bool = False

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"], theta=500000.0),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "intermediate_size": fields.integer("intermediate_size"),
            "layer_norm_eps": fields.number("layer_norm_eps", 1e-5),
            "activation": fields.activation("hidden_act", "silu"),
            "attention_bias": fields.boolean("attention_bias", default=False),
            "logits_scale": fields.number("logit_scale", 0.0625),
            "has_qk_norms": fields.boolean("use_qk_norm", default=False),
        }


@dataclass(frozen=True, kw_only=True)
class Cohere2Config(CohereConfig):
    """Three layers with a window, then one without."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("use_qk_norm", unless=False)
        common = super().settings(fields)
        pattern = fields.integer("sliding_window_pattern", 4)
        windows = read_layer_windows(
            fields,
            common["num_layers"],
            default_window=4096,
            is_sliding=lambda layer: (layer + 1) % pattern != 0,
        )
        return {**common, "layer_windows": windows, "is_rope_local": True}
