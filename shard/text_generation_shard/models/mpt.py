"""MPT (MosaicML, 2023): ALiBi, no bias anywhere, queries, keys and values clipped."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.alibi import mpt_slopes
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import StackedQKV
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.plain import PlainConfig, plain_mlp, plain_norm
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class MPTConfig(PlainConfig):
    """MPT, as far as transformers itself runs it."""

    RENAMED: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
        "layer_norm_eps": "layer_norm_epsilon",
    }

    attention_scale: float | None
    alibi_max_bias: float
    clip: float | None

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        attention = fields.section("attn_config")
        attention.refuse("attn_type", unless="multihead_attention")
        attention.refuse("alibi", unless=True)
        attention.refuse("qk_ln", unless=False)
        attention.refuse("prefix_lm", unless=False)
        fields.refuse("no_bias", unless=True)
        fields.refuse("logit_scale", unless=None)
        common = super().settings(fields)
        return {
            **common,
            "intermediate_size": fields.integer("expansion_ratio", 4) * common["hidden_size"],
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "attention_scale": attention.optional_number("softmax_scale"),
            "alibi_max_bias": attention.number("alibi_bias_max", 8.0),
            # Zero means no clipping, too.
            "clip": attention.optional_number("clip_qkv") or None,
        }


def mpt_layer(
    config: MPTConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> SequentialBlock:
    """Attention and MLP, each on the normed stream and added to it."""
    return SequentialBlock(
        attention_norm=plain_norm(config, weights.scope("norm_1"), bias=False),
        attention=SelfAttention(
            weights.scope("attn"),
            ranks,
            shape,
            layout=StackedQKV("Wqkv"),
            output="out_proj",
            scale=config.attention_scale,
            alibi_slopes=mpt_slopes(shape, weights.device, max_bias=config.alibi_max_bias),
            clip=config.clip,
        ),
        mlp_norm=plain_norm(config, weights.scope("norm_2"), bias=False),
        mlp=plain_mlp(config, weights.scope("ffn"), ranks, ("up_proj", "down_proj"), bias=False),
    )


def mpt(config: MPTConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("wte"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            mpt_layer(config, shape, body.scope(f"blocks.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        norm=plain_norm(config, body.scope("norm_f"), bias=False),
        head=output_head(config, weights, ranks, embedding),
    )
