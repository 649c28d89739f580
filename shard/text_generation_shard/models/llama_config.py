"""What the config.json of Llama means, and of models that are Llama but for some settings."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.models.config import LayerWindows, ModelConfig, read_layer_windows
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.ops.activation_kind import Activation


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Llama's own settings; those with defaults are of its relatives."""

    intermediate_size: int
    rms_norm_eps: float
    activation: Activation
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    has_qk_norms: bool = False
    has_sinks: bool = False
    # Whether the checkpoint stores qkv_proj and gate_up_proj.
    is_fused: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    # None: head_dim ** -0.5
    attention_scale: float | None = None
    logits_scale: float = 1.0

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        has_bias = fields.boolean("attention_bias", default=False)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"]),
            "intermediate_size": fields.integer("intermediate_size"),
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
            "activation": fields.activation("hidden_act", "silu"),
            "qkv_bias": has_bias,
            "output_bias": has_bias,
            "mlp_bias": fields.boolean("mlp_bias", default=False),
        }


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """Mistral 7B (Jiang et al., 2023): every layer has a sliding window, or none has."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        windows = read_layer_windows(fields, common["num_layers"], default_window=4096)
        return {**common, "layer_windows": windows}


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(LlamaConfig):
    """Qwen 2 and 2.5: biases on queries, keys and values; sliding windows from a layer on."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            "qkv_bias": True,
            "output_bias": False,
            "layer_windows": qwen_windows(fields, common["num_layers"]),
        }


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """Qwen 3: normed queries and keys, heads wider than the stream's share."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        head_dim = fields.integer("head_dim", 128)
        common = super().settings(fields)
        return {
            **common,
            **rotary_settings(fields, head_dim=head_dim),
            "head_dim": head_dim,
            "has_qk_norms": True,
            "layer_windows": qwen_windows(fields, common["num_layers"]),
        }


@dataclass(frozen=True, kw_only=True)
class Phi3Config(LlamaConfig):
    """Phi-3 and Phi-4 (Abdin et al., 2024): fused layers in the checkpoint, LongRoPE."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            "layer_windows": read_layer_windows(fields, common["num_layers"]),
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-5),
            "is_fused": True,
        }


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(LlamaConfig):
    """IBM Granite 3: four factors, where Llama has 1, head_dim ** -0.5, 1 and 1."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        return {
            **super().settings(fields),
            "embedding_scale": fields.number("embedding_multiplier", 1.0),
            "attention_scale": fields.number("attention_multiplier", 1.0),
            "residual_scale": fields.number("residual_multiplier", 1.0),
            "logits_scale": 1 / fields.number("logits_scaling", 1.0),
        }


def qwen_windows(fields: Fields, num_layers: int) -> LayerWindows:
    """Switched off unless said otherwise; without `layer_types`, the upper layers have it."""
    if not fields.boolean("use_sliding_window", default=False):
        return (None,) * num_layers
    first = fields.integer("max_window_layers", 28)
    return read_layer_windows(
        fields, num_layers, default_window=4096, is_sliding=lambda layer: layer >= first
    )
