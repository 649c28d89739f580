"""Falcon (Almazrouei et al., 2023): three generations of one decoder.

                   keys and values     halves of a layer     norms of a layer    positions
Falcon-RW          one per query head  one after the other   two                 ALiBi
Falcon 7B          one for all         side by side          one                 rotary
Falcon 40B, 180B   one per group       side by side          two                 rotary
Falcon 2 11B       one per group       side by side          one                 rotary
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.layers.alibi import bloom_slopes
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import ParallelBlock, SequentialBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import GroupedQKV, QKVLayout, StackedQKV
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
class FalconConfig(PlainConfig):
    """Falcon; without `rope` it has ALiBi."""

    RENAMED: ClassVar = {
        "hidden_size": "n_embed",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "ffn_hidden_size",
        "hidden_act": "activation",
        "layer_norm_eps": "layer_norm_epsilon",
    }

    layout: QKVLayout
    has_bias: bool
    is_parallel: bool
    # Of a parallel layer: whether attention and MLP have a norm each.
    has_two_norms: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        is_new = fields.boolean("new_decoder_architecture", default=False)
        is_parallel = fields.boolean("parallel_attn", default=True)
        if is_new and not is_parallel:
            raise CheckpointError("parallel_attn false with new_decoder_architecture is unknown")
        num_heads = common["total_num_heads"]
        layout: QKVLayout = GroupedQKV("query_key_value")
        if is_new:
            num_kv_heads = fields.integer("num_kv_heads", num_heads)
        elif fields.boolean("multi_query", default=True):
            num_kv_heads, layout = 1, StackedQKV("query_key_value")
        else:
            num_kv_heads = num_heads
        if num_heads % num_kv_heads:
            raise CheckpointError(
                f"num_kv_heads ({num_kv_heads}) does not divide the {num_heads} heads"
            )
        rotary = {}
        if not fields.boolean("alibi", default=False):
            rotary = rotary_settings(fields, head_dim=common["head_dim"])
        return {
            **common,
            **rotary,
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "total_num_kv_heads": num_kv_heads,
            "layout": layout,
            "has_bias": fields.boolean("bias", default=False),
            "is_parallel": is_parallel,
            "has_two_norms": is_new and fields.integer("num_ln_in_parallel_attn", 2) == 2,
        }


def falcon_layer(
    config: FalconConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> Layer:
    """Attention and MLP; scores are scaled after ALiBi was added, so its slopes are, too."""
    slopes = None
    if config.rope is None:
        slopes = bloom_slopes(shape, weights.device) * config.head_dim**-0.5
    attention = SelfAttention(
        weights.scope("self_attention"),
        ranks,
        shape,
        layout=config.layout,
        output="dense",
        qkv_bias=config.has_bias,
        output_bias=config.has_bias,
        alibi_slopes=slopes,
    )
    mlp = plain_mlp(
        config,
        weights.scope("mlp"),
        ranks,
        ("dense_h_to_4h", "dense_4h_to_h"),
        bias=config.has_bias,
    )
    first = plain_norm(
        config, weights.scope("ln_attn" if config.has_two_norms else "input_layernorm")
    )
    if not config.is_parallel:
        second = plain_norm(config, weights.scope("post_attention_layernorm"))
        return SequentialBlock(attention_norm=first, attention=attention, mlp_norm=second, mlp=mlp)
    mlp_norm = plain_norm(config, weights.scope("ln_mlp")) if config.has_two_norms else None
    return ParallelBlock(attention_norm=first, attention=attention, mlp_norm=mlp_norm, mlp=mlp)


def falcon(config: FalconConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("word_embeddings"), ranks)
    rotary = None if config.rope is None else rotary_embedding(config, weights)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            falcon_layer(config, shape, body.scope(f"h.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary] * config.num_layers,
        norm=plain_norm(config, body.scope("ln_f")),
        head=output_head(config, weights, ranks, embedding),
    )
