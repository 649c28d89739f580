"""What the config.json of a Gemma means."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.models.config import ModelConfig, read_layer_windows
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.rope_config import RopeConfig, read_rope, rotary_settings
from text_generation_shard.ops.activation_kind import Activation


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(ModelConfig):
    """The first Gemma; settings with defaults are of its successors."""

    intermediate_size: int
    rms_norm_eps: float
    activation: Activation
    attention_bias: bool
    attention_scale: float
    # Whether branches are normed also after they were computed.
    has_post_norms: bool = False
    has_qk_norms: bool = False
    attention_soft_cap: float | None = None
    logits_soft_cap: float | None = None
    # RoPE of layers with a sliding window, where it differs.
    local_rope: RopeConfig | None = None

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("use_bidirectional_attention", unless=False)
        head_dim = fields.integer("head_dim", 256)
        return {
            **super().settings(fields),
            **rotary_settings(fields, head_dim=head_dim),
            "head_dim": head_dim,
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "intermediate_size": fields.integer("intermediate_size"),
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
            # Early checkpoints say `hidden_act: gelu` and mean the approximation.
            "activation": fields.activation("hidden_activation", "gelu_tanh"),
            "attention_bias": fields.boolean("attention_bias", default=False),
            "attention_scale": head_dim**-0.5,
        }


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(GemmaConfig):
    """Every second layer has a window."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        windows = read_layer_windows(
            fields,
            common["num_layers"],
            default_window=4096,
            is_sliding=lambda layer: layer % 2 == 0,
        )
        return {
            **common,
            "layer_windows": windows,
            "attention_scale": fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
            "has_post_norms": True,
            "attention_soft_cap": _cap(fields, "attn_logit_softcapping", 50.0),
            "logits_soft_cap": _cap(fields, "final_logit_softcapping", 30.0),
        }


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(GemmaConfig):
    """Five layers with a window, then one without; two RoPE bases."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        head_dim, num_layers = common["head_dim"], common["num_layers"]
        pattern = fields.integer("sliding_window_pattern", 6)
        windows = read_layer_windows(
            fields,
            num_layers,
            default_window=4096,
            is_sliding=lambda layer: (layer + 1) % pattern != 0,
        )
        return {
            **common,
            **_two_ropes(fields, head_dim),
            "layer_windows": windows,
            "attention_scale": fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
            "has_post_norms": True,
            "has_qk_norms": True,
            "attention_soft_cap": _cap(fields, "attn_logit_softcapping", None),
            "logits_soft_cap": _cap(fields, "final_logit_softcapping", None),
        }


def _cap(fields: Fields, key: str, default: float | None) -> float | None:
    """A cap that null switches off."""
    return fields.optional_number(key) if fields.names(key) else default


def _two_ropes(fields: Fields, head_dim: int) -> dict[str, Any]:
    """`rope_parameters` by kind of layer, or in the older spelling two bases and a `rope_scaling`
    that is meant for layers without window; its factor is contained in the number of positions.
    """
    positions = fields.integer("max_position_embeddings", 131072)
    parameters = fields.section("rope_parameters")
    wide = parameters.section("full_attention")
    wide = wide if parameters.has("full_attention") else fields.section("rope_scaling")
    local = parameters.section("sliding_attention")
    local_theta = fields.number("rope_local_base_freq", 10000.0)
    rope = read_rope(wide, fields, positions, head_dim=head_dim, theta=1e6)
    local_rope = RopeConfig(
        theta=local.number("rope_theta", local_theta),
        rotary_dim=head_dim,
        original_max_positions=positions,
    )
    return {"rope": rope, "local_rope": local_rope, "max_position_embeddings": positions}
