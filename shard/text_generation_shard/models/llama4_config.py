"""What the config.json of Llama 4 means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from text_generation_shard.errors import CheckpointError
from text_generation_shard.layers.temperature import LogTemperature
from text_generation_shard.models.config import LayerWindows
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.mixture_config import MixtureConfig, experts_per_token
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.ops.attention_window import AttentionChunk


@dataclass(frozen=True, kw_only=True)
class Llama4TextConfig(MixtureConfig):
    """The text part alone. `expert_size` is also that of the expert for all tokens,
    `intermediate_size` that of layers without experts.
    """

    # Whether the layer turns positions.
    is_rotary: tuple[bool, ...]
    # Of the layers that do not turn positions.
    temperature: LogTemperature | None

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields = fields.with_defaults(
            head_dim=128,
            num_key_value_heads=8,
            intermediate_size=8192,
            intermediate_size_mlp=16384,
            num_local_experts=16,
            max_position_embeddings=4096 * 32,
        )
        common = super().settings(fields)
        num_layers, num_experts = common["num_layers"], common["num_experts"]
        is_rotary = _is_rotary(fields, num_layers)
        temperature = LogTemperature(
            strength=fields.number("attn_scale", 0.1), interval=fields.integer("floor_scale", 8192)
        )
        has_temperature = fields.boolean("attn_temperature_tuning", default=True)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"], theta=500000.0),
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-5),
            "intermediate_size": fields.integer("intermediate_size_mlp"),
            "expert_size": fields.integer("intermediate_size"),
            "experts_per_token": experts_per_token(fields, "num_experts_per_tok", num_experts, 1),
            "dense_layers": frozenset(range(num_layers)) - _mixture_layers(fields, num_layers),
            "has_qk_norms": fields.boolean("use_qk_norm", default=True),
            "is_rotary": is_rotary,
            "layer_windows": _layer_windows(fields, is_rotary),
            "temperature": temperature if has_temperature else None,
        }


@dataclass(frozen=True, kw_only=True)
class Llama4Config(Llama4TextConfig):
    """The text part of a model that also reads images."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise CheckpointError(f"text_config must be an object, got {text!r}")
        outer = {key: config[key] for key in ("quantization_config", "dtype") if key in config}
        return super().from_hf({**text, **outer, "model_type": config["model_type"]})


def _is_rotary(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """All but every fourth, where the layers are not listed (by a 1, in spite of the name)."""
    listed, interval = (
        fields.integers("no_rope_layers"),
        fields.integer("no_rope_layer_interval", 4),
    )
    if not listed:
        return tuple((layer + 1) % interval != 0 for layer in range(num_layers))
    if len(listed) != num_layers:
        raise CheckpointError(f"no_rope_layers must be a list of {num_layers} integers")
    return tuple(bool(turns) for turns in listed)


def _mixture_layers(fields: Fields, num_layers: int) -> frozenset[int]:
    step = fields.integer("interleave_moe_layer_step", 1)
    if fields.has("moe_layers"):
        return frozenset(fields.integers("moe_layers"))
    return frozenset(range(step - 1, num_layers, step))


def _layer_windows(fields: Fields, is_rotary: tuple[bool, ...]) -> LayerWindows:
    """Layers that turn positions see a chunk, unless `layer_types` says otherwise."""
    layer_types = tuple("chunked_attention" if turns else "full_attention" for turns in is_rotary)
    if fields.has("layer_types"):
        layer_types = fields.texts("layer_types", len(is_rotary))
        if unknown := set(layer_types) - {"chunked_attention", "full_attention"}:
            raise CheckpointError(f"layer_types: {', '.join(sorted(unknown))} not supported")
    size = fields.integer_unless_null("attention_chunk_size", 8192)
    chunk = None if size is None else AttentionChunk(size)
    return tuple(chunk if name == "chunked_attention" else None for name in layer_types)
