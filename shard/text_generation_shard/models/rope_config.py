"""How positions turn queries and keys, as a config.json says it in its older and newer spelling."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.fields import Fields

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]
_KINDS: dict[str, RopeKind] = {
    "default": "default",
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
    # The name of Phi-3's first checkpoints.
    "su": "longrope",
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Fields that a kind does not use keep their defaults."""

    kind: RopeKind = "default"
    theta: float = 10000.0
    # The first so many dimensions of a head turn.
    rotary_dim: int
    # Longest sequence of the training before scaling.
    original_max_positions: int
    factor: float = 1.0
    # llama3
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    # yarn
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    is_truncated: bool = True
    # yarn and longrope: what queries and keys are multiplied by; with the long factors, if that
    # differs (Phi-3.5-MoE).
    attention_factor: float = 1.0
    long_attention_factor: float | None = None
    # yarn: what the scores of latent attention are multiplied by, for DeepSeek turns only a part of
    # the dimensions.
    score_factor: float = 1.0
    # longrope: per pair of dimensions.
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


def rotary_settings(
    fields: Fields, *, head_dim: int, theta: float = 10000.0, fraction: float = 1.0
) -> dict[str, Any]:
    """`rope` and `max_position_embeddings` of a ModelConfig; the defaults are the family's."""
    max_positions = fields.integer("max_position_embeddings", 2048)
    parameters = fields.section("rope_parameters")
    # As in transformers: somebody added the older spelling to a file that has the newer.
    values = fields.section("rope_scaling") if fields.has("rope_scaling") else parameters
    theta = parameters.number("rope_theta", theta)
    rope = read_rope(values, fields, max_positions, head_dim=head_dim, theta=theta, part=fraction)
    return {
        "rope": rope,
        "max_position_embeddings": _longest(rope, values, max_positions),
    }


def read_rope(
    values: Fields,
    fields: Fields,
    max_positions: int,
    *,
    head_dim: int,
    theta: float = 10000.0,
    part: float = 1.0,
) -> RopeConfig:
    """values: the object about RoPE; fields: the whole configuration, which may know the rest."""
    kind = _kind(values)
    part = fields.number("partial_rotary_factor", part)
    rotary_dim = int(head_dim * values.number("partial_rotary_factor", part))
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise CheckpointError(
            f"partial_rotary_factor: {rotary_dim} of {head_dim} dimensions cannot turn in pairs"
        )
    original = fields.integer("original_max_position_embeddings", max_positions)
    original = values.integer("original_max_position_embeddings", original)
    ratio = max_positions / original if kind in ("yarn", "longrope") else None
    factor = 1.0 if kind == "default" else values.number("factor", ratio)
    is_llama3, num_pairs = kind == "llama3", rotary_dim // 2
    return RopeConfig(
        kind=kind,
        theta=values.number("rope_theta", fields.number("rope_theta", theta)),
        rotary_dim=rotary_dim,
        original_max_positions=original,
        factor=factor,
        low_freq_factor=values.number("low_freq_factor", None if is_llama3 else 1.0),
        high_freq_factor=values.number("high_freq_factor", None if is_llama3 else 4.0),
        beta_fast=values.number("beta_fast", 32.0),
        beta_slow=values.number("beta_slow", 1.0),
        is_truncated=values.boolean("truncate", default=True),
        attention_factor=_attention_factor(kind, values, factor, original),
        score_factor=_score_factor(kind, values, factor),
        long_attention_factor=values.optional_number("long_mscale"),
        short_factors=values.numbers("short_factor", num_pairs) if kind == "longrope" else (),
        long_factors=values.numbers("long_factor", num_pairs) if kind == "longrope" else (),
    )


def _kind(values: Fields) -> RopeKind:
    name = values.text("rope_type", values.text("type", "default"))
    if name not in _KINDS:
        raise CheckpointError(
            f"rope_type {name!r} is not supported (supported: {', '.join(_KINDS)})"
        )
    return _KINDS[name]


def _attention_factor(kind: RopeKind, values: Fields, factor: float, original: int) -> float:
    """The checkpoint's own, or what the papers of YaRN and LongRoPE propose."""
    if kind not in ("yarn", "longrope") or factor <= 1:
        default = 1.0
    elif kind == "longrope":
        default = math.sqrt(1 + math.log(factor) / math.log(original))
    else:
        scale, all_dims = values.number("mscale", 0.0), values.number("mscale_all_dim", 0.0)
        default = _mscale(factor, scale) / _mscale(factor, all_dims) if scale and all_dims else 0.0
        default = default or _mscale(factor, 1.0)
    return values.number("attention_factor", values.number("short_mscale", default))


def _score_factor(kind: RopeKind, values: Fields, factor: float) -> float:
    scale = values.number("mscale_all_dim", 0.0)
    return _mscale(factor, scale) ** 2 if kind == "yarn" and scale and factor > 1 else 1.0


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0


def _longest(rope: RopeConfig, values: Fields, max_positions: int) -> int:
    """The longest sequence. Linear and dynamic scaling name the length before it in the older
    spelling; where the original length is named apart, `max_position_embeddings` is the final one,
    but for YaRN, where it is often left as it was.
    """
    if rope.kind == "yarn":
        return max(max_positions, int(rope.original_max_positions * rope.factor))
    if rope.kind in ("linear", "dynamic") and not values.has("original_max_position_embeddings"):
        return int(max_positions * rope.factor)
    return max_positions
