"""StarCoder 2 (Lozhkov et al., 2024): Llama's attention, GPT-2's norms and MLP."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.models.config import read_layer_windows
from text_generation_shard.models.decoder import (
    Decoder,
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
class Starcoder2Config(PlainConfig):
    """StarCoder 2."""

    has_bias: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"]),
            "layer_windows": read_layer_windows(fields, common["num_layers"]),
            "layer_norm_eps": fields.number("norm_epsilon", 1e-5),
            "activation": fields.activation("hidden_act", "gelu_pytorch_tanh"),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "has_bias": fields.boolean("use_bias", default=True),
        }


def starcoder2_layer(
    config: Starcoder2Config,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SequentialBlock:
    """Attention and MLP, each on the normed stream and added to it."""
    return SequentialBlock(
        attention_norm=plain_norm(config, weights.scope("input_layernorm")),
        attention=SelfAttention(
            weights.scope("self_attn"),
            ranks,
            shape,
            layout=SeparateQKV(),
            output="o_proj",
            qkv_bias=config.has_bias,
            output_bias=config.has_bias,
            sliding_window=config.layer_windows[index],
        ),
        mlp_norm=plain_norm(config, weights.scope("post_attention_layernorm")),
        mlp=plain_mlp(
            config, weights.scope("mlp"), ranks, ("c_fc", "c_proj"), bias=config.has_bias
        ),
    )


def starcoder2(config: Starcoder2Config, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            starcoder2_layer(config, index, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=plain_norm(config, body.scope("norm")),
        head=output_head(config, weights, ranks, embedding),
    )
