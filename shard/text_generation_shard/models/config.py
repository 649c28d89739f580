"""A checkpoint's config.json, translated once into what our models are built from.

This is the only place with defaults for missing keys, and the place that refuses, by name, what the
models here would compute wrongly.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from text_generation_shard.errors import CheckpointError

RopeKind = Literal["default", "linear", "dynamic", "llama3"]
_ROPE_KINDS: tuple[RopeKind, ...] = ("default", "linear", "dynamic", "llama3")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """How positions turn queries and keys; fields a kind does not use keep their defaults."""

    kind: RopeKind = "default"
    theta: float = 10000.0
    # Longest sequence of the training before scaling (dynamic, llama3).
    original_max_positions: int
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a decoder model is; counts are of the whole model, not of a rank."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    total_num_heads: int
    total_num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    # Tokens that a query sees, itself included; None: all before it.
    sliding_window: int | None
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    # Data type of the stored weights, where the checkpoint names one.
    dtype: str | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Translate the contents of a config.json as transformers writes it, old or new."""
        fields = _Fields(config)
        _refuse_unknown(fields)
        hidden_size = fields.integer("hidden_size")
        num_heads = fields.integer("num_attention_heads")
        num_kv_heads = fields.integer("num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise CheckpointError(
                f"num_attention_heads ({num_heads}) is not a multiple of num_key_value_heads "
                f"({num_kv_heads})"
            )
        max_positions = fields.integer("max_position_embeddings", 2048)
        rope = _rope_config(fields, max_positions)
        return cls(
            model_type=fields.text("model_type"),
            vocab_size=fields.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size"),
            num_layers=fields.integer("num_hidden_layers"),
            total_num_heads=num_heads,
            total_num_kv_heads=num_kv_heads,
            head_dim=fields.integer("head_dim", hidden_size // num_heads),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_position_embeddings=_scaled_positions(rope, max_positions, fields),
            rope=rope,
            sliding_window=_sliding_window(fields),
            attention_bias=fields.boolean("attention_bias", default=False),
            mlp_bias=fields.boolean("mlp_bias", default=False),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            dtype=fields.optional_text("dtype") or fields.optional_text("torch_dtype"),
        )

    def with_rope(self, kind: Literal["linear", "dynamic"], factor: float) -> "ModelConfig":
        """The same model with the scaling that --rope-scaling and --rope-factor ask for.

        It replaces the checkpoint's own and lengthens the sequences that the model accepts.
        """
        original = self.rope.original_max_positions
        rope = RopeConfig(
            kind=kind, theta=self.rope.theta, original_max_positions=original, factor=factor
        )
        positions = int(original * factor)
        return ModelConfig(**{**vars(self), "rope": rope, "max_position_embeddings": positions})


def read_config(model_path: Path) -> dict[str, Any]:
    """The contents of a model directory's config.json; CheckpointError if there is none."""
    path = model_path / "config.json"
    if not model_path.is_dir():
        raise CheckpointError(f"--model-path {model_path} is not a directory")
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not an object")
    return config


class _Fields:
    """Typed access to a foreign mapping; a null counts as missing."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{key} must be a positive integer, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{key} must be a number, got {value!r}")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{key} must be true or false, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise CheckpointError(f"{key} must be a string, got {value!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.values.get(key) is None else self.text(key)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{key} is missing")
        return value


def _refuse_unknown(fields: _Fields) -> None:
    """Refuse settings that change the result and that no model here honours."""
    if fields.has("quantization_config"):
        raise CheckpointError("quantization_config: quantized checkpoints are not supported")
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise CheckpointError(f"hidden_act {activation!r} is not supported (supported: silu)")


def _sliding_window(fields: _Fields) -> int | None:
    if not fields.has("sliding_window") or fields.values.get("use_sliding_window") is False:
        return None
    layer_types = fields.values.get("layer_types")
    if layer_types is not None and set(layer_types) != {"sliding_attention"}:
        raise CheckpointError("layer_types: layers with different windows are not supported")
    return fields.integer("sliding_window")


def _rope_config(fields: _Fields, max_positions: int) -> RopeConfig:
    """Both spellings: `rope_parameters`, or the older `rope_scaling` beside `rope_theta`."""
    key = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    values = fields.values.get(key) or {}
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{key} must be an object, got {values!r}")
    rope = _Fields(values)
    kind = rope.text("rope_type", rope.text("type", "default"))
    found = next((known for known in _ROPE_KINDS if known == kind), None)
    if found is None:
        raise CheckpointError(
            f"{key}: rope_type {kind!r} is not supported (supported: {', '.join(_ROPE_KINDS)})"
        )
    if rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0)) != 1:
        raise CheckpointError("partial_rotary_factor other than 1 is not supported")
    return RopeConfig(
        kind=found,
        theta=rope.number("rope_theta", fields.number("rope_theta", 10000.0)),
        original_max_positions=rope.integer("original_max_position_embeddings", max_positions),
        factor=1.0 if found == "default" else rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor", None if found == "llama3" else 1.0),
        high_freq_factor=rope.number("high_freq_factor", None if found == "llama3" else 4.0),
    )


def _scaled_positions(rope: RopeConfig, max_positions: int, fields: _Fields) -> int:
    """The longest sequence. Linear and dynamic scaling name the length before it in the older
    spelling; where the original length is named apart, `max_position_embeddings` is the final one.
    """
    values = fields.values.get("rope_parameters") or fields.values.get("rope_scaling") or {}
    if rope.kind in ("linear", "dynamic") and "original_max_position_embeddings" not in values:
        return int(max_positions * rope.factor)
    return max_positions
