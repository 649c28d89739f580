"""GPT-NeoX (Black et al., 2022) and Pythia: a part of every head turns, halves in parallel."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import ParallelBlock, SequentialBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import GroupedQKV
from text_generation_shard.models.decoder import (
    Decoder,
    Layer,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.plain import PlainConfig, plain_mlp, plain_norm
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(PlainConfig):
    """GPT-NeoX."""

    RENAMED: ClassVar = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}

    is_parallel: bool
    attention_bias: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"], fraction=0.25),
            "is_parallel": fields.boolean("use_parallel_residual", default=True),
            "attention_bias": fields.boolean("attention_bias", default=True),
        }


def gpt_neox_layer(
    config: GPTNeoXConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> Layer:
    """Attention and MLP, side by side or, in some of its descendants, one after the other."""
    block = ParallelBlock if config.is_parallel else SequentialBlock
    return block(
        attention_norm=plain_norm(config, weights.scope("input_layernorm")),
        attention=SelfAttention(
            weights.scope("attention"),
            ranks,
            shape,
            layout=GroupedQKV("query_key_value"),
            output="dense",
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
        ),
        mlp_norm=plain_norm(config, weights.scope("post_attention_layernorm")),
        mlp=plain_mlp(config, weights.scope("mlp"), ranks, ("dense_h_to_4h", "dense_4h_to_h")),
    )


def gpt_neox(config: GPTNeoXConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("gpt_neox"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_in"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            gpt_neox_layer(config, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=plain_norm(config, body.scope("final_layer_norm")),
        head=output_head(config, weights, ranks, embedding, name="embed_out"),
    )
