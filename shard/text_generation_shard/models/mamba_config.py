"""What a config.json of Mamba or Falcon Mamba means."""

import math
from dataclasses import dataclass
from typing import Any

from text_generation_shard.layers.state_space import StateSpaceShape
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.fields import Fields

# There are no positions that could run out; this only bounds the tables of the slots.
_LONGEST = 1 << 20
# What is served unless more is asked for: checkpoints were trained on 2048 to 8192 tokens.
_DEFAULT_TOTAL_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class MambaConfig(ModelConfig):
    """Mamba, as transformers writes it."""

    shape: StateSpaceShape
    norm_eps: float
    bias: bool
    conv_bias: bool
    residual_in_fp32: bool
    # Of the norms within the layer, which only Falcon Mamba has.
    inner_norm_eps: float | None

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        hidden_size = fields.integer("hidden_size", 768)
        num_channels = fields.integer("expand", 2) * hidden_size
        fields.refuse("intermediate_size", unless=num_channels)
        fields.refuse("hidden_act", unless="silu")
        is_automatic = fields.equals("time_step_rank", "auto")
        automatic_rank = math.ceil(hidden_size / 16)
        return {
            "model_type": fields.text("model_type"),
            "vocab_size": fields.integer("vocab_size", 50280),
            "hidden_size": hidden_size,
            "num_layers": fields.integer("num_hidden_layers", 32),
            "total_num_heads": 0,
            "total_num_kv_heads": 0,
            "head_dim": 0,
            "max_position_embeddings": _LONGEST,
            "default_total_tokens": _DEFAULT_TOTAL_TOKENS,
            "rope": None,
            "layer_windows": (),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "dtype": fields.optional_text("dtype") or fields.optional_text("torch_dtype"),
            "shape": StateSpaceShape(
                hidden_size=hidden_size,
                num_channels=num_channels,
                state_size=fields.integer("state_size", 16),
                kernel=fields.integer("conv_kernel", 4),
                step_rank=(
                    automatic_rank
                    if is_automatic
                    else fields.integer("time_step_rank", automatic_rank)
                ),
            ),
            "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
            "bias": fields.boolean("use_bias", default=False),
            "conv_bias": fields.boolean("use_conv_bias", default=True),
            "residual_in_fp32": fields.boolean("residual_in_fp32", default=True),
            "inner_norm_eps": None,
        }


class FalconMambaConfig(MambaConfig):
    """Norms without weights on what selects."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        inner_norm_eps = fields.number("mixer_rms_eps", 1e-6)
        return {**super().settings(fields), "inner_norm_eps": inner_norm_eps}
