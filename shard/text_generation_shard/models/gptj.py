"""GPT-J (Wang and Komatsuzaki, 2021): both halves read one norm; neighbours turn together."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import ParallelBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.gpt2 import GPT_NAMES
from text_generation_shard.models.plain import PlainConfig, plain_mlp, plain_norm
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class GPTJConfig(PlainConfig):
    """GPT-J."""

    RENAMED: ClassVar = GPT_NAMES

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        rotary = rotary_settings(fields, head_dim=common["head_dim"])
        # null: as wide as the stream, which no checkpoint has.
        rotary_dim = fields.integer("rotary_dim", None if fields.names("rotary_dim") else 64)
        if rotary_dim % 2 or rotary_dim > common["head_dim"]:
            raise CheckpointError(
                f"rotary_dim ({rotary_dim}) must be even and at most {common['head_dim']}, the "
                "size of a head"
            )
        return {
            **common,
            **rotary,
            "rope": dataclasses.replace(rotary["rope"], rotary_dim=rotary_dim),
            "activation": fields.activation("hidden_act", "gelu_new"),
        }


def gptj_layer(
    config: GPTJConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x))."""
    return ParallelBlock(
        attention_norm=plain_norm(config, weights.scope("ln_1")),
        attention=SelfAttention(
            weights.scope("attn"), ranks, shape, layout=SeparateQKV(), output="out_proj"
        ),
        mlp=plain_mlp(config, weights.scope("mlp"), ranks, ("fc_in", "fc_out")),
    )


def gptj(config: GPTJConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head with a bias."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("wte"), ranks)
    assert config.rope is not None
    rotary = RotaryEmbedding(
        config.rope, dtype=weights.dtype, device=weights.device, interleaved=True
    )
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            gptj_layer(config, shape, body.scope(f"h.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary] * config.num_layers,
        norm=plain_norm(config, body.scope("ln_f")),
        head=output_head(config, weights, ranks, embedding, bias=True),
    )
