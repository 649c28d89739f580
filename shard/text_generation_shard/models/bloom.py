"""BLOOM (BigScience, 2022): ALiBi in place of positions, and a norm on the embedding."""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.alibi import bloom_slopes
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import GroupedQKV
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
class BloomConfig(PlainConfig):
    """BLOOM and BLOOMZ. The model knows no longest sequence; it was trained on `seq_length`."""

    RENAMED: ClassVar = {
        "hidden_size": "n_embed",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "seq_length",
        "layer_norm_eps": "layer_norm_epsilon",
    }

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("apply_residual_connection_post_layernorm", unless=False)
        return {
            **super().settings(fields),
            "activation": "gelu_tanh",
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
        }


def bloom_layer(
    config: BloomConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> SequentialBlock:
    """Attention and MLP, each on the normed stream and added to it."""
    return SequentialBlock(
        attention_norm=plain_norm(config, weights.scope("input_layernorm")),
        attention=SelfAttention(
            weights.scope("self_attention"),
            ranks,
            shape,
            layout=GroupedQKV("query_key_value"),
            output="dense",
            qkv_bias=True,
            output_bias=True,
            alibi_slopes=bloom_slopes(shape, weights.device),
        ),
        mlp_norm=plain_norm(config, weights.scope("post_attention_layernorm")),
        mlp=plain_mlp(config, weights.scope("mlp"), ranks, ("dense_h_to_4h", "dense_4h_to_h")),
    )


def bloom(config: BloomConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Normed embedding, layers, norm, head."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("word_embeddings"), ranks)
    embedding_norm = plain_norm(config, body.scope("word_embeddings_layernorm"))
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding_norm(embedding(inputs.token_ids)),
        layers=[
            bloom_layer(config, shape, body.scope(f"h.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        norm=plain_norm(config, body.scope("ln_f")),
        head=output_head(config, weights, ranks, embedding),
    )
