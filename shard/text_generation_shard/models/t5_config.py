"""What config.json says of T5 and mT5."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.fields import Fields
from text_generation_shard.ops.activation_kind import Activation

# Relative positions have no end; so long a text is more than any of these models was trained on.
_MAX_POSITIONS = 4096


@dataclass(frozen=True, kw_only=True)
class T5Config(ModelConfig):
    """T5, T5 1.1 and FLAN-T5; `num_layers` counts the decoder's."""

    RENAMED: ClassVar = {
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "rms_norm_eps": "layer_norm_epsilon",
    }

    num_encoder_layers: int
    intermediate_size: int
    activation: Activation
    is_gated: bool
    rms_norm_eps: float
    num_buckets: int
    max_distance: int
    # What the logits are multiplied by.
    logit_scale: float

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        num_encoder_layers = fields.integer("num_hidden_layers")
        num_layers = fields.integer("num_decoder_layers", num_encoder_layers)
        activation, is_gated = _feed_forward(fields, default="relu")
        common = super().settings(fields)
        return {
            **common,
            "num_layers": num_layers,
            "layer_windows": (None,) * num_layers,
            "max_position_embeddings": _MAX_POSITIONS,
            # The head is the checkpoint's own where it has one, whatever this key says.
            "tie_word_embeddings": True,
            "decoder_start_token_id": fields.count(
                "decoder_start_token_id", fields.count("pad_token_id", 0)
            ),
            "num_encoder_layers": num_encoder_layers,
            "intermediate_size": fields.integer("intermediate_size"),
            "activation": activation,
            "is_gated": is_gated,
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
            "num_buckets": fields.integer("relative_attention_num_buckets", 32),
            "max_distance": fields.integer("relative_attention_max_distance", 128),
            "logit_scale": common["hidden_size"] ** -0.5 if _scales_logits(fields) else 1.0,
        }


@dataclass(frozen=True, kw_only=True)
class MT5Config(T5Config):
    """mT5: T5 1.1 in many languages."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        activation, is_gated = _feed_forward(fields, default="gated-gelu")
        common = super().settings(fields)
        return {**common, "activation": activation, "is_gated": is_gated, "logit_scale": 1.0}


def _feed_forward(fields: Fields, *, default: str) -> tuple[Activation, bool]:
    """The activation, and whether there is a gate: "relu" or "gated-gelu"."""
    name = fields.text("feed_forward_proj", default)
    gate, _, activation = name.rpartition("-")
    if gate not in ("", "gated"):
        raise CheckpointError(f"feed_forward_proj {name!r} is not supported")
    if name == "gated-gelu":  # all such models were trained with the approximation
        activation = "gelu_new"
    known = Fields({"feed_forward_proj": activation}).activation("feed_forward_proj")
    return known, gate == "gated"


def _scales_logits(fields: Fields) -> bool:
    """T5 scales them; T5 1.1 does not, which it used to say by `tie_word_embeddings`."""
    is_tied = fields.boolean("tie_word_embeddings", default=True)
    return fields.boolean("scale_decoder_outputs", default=is_tied)
