"""GPT-2 (Radford et al., 2019) and GPTBigCode (SantaCoder and StarCoder, 2023).

Learned positions, and for GPT-2 weights that are stored as [inputs, outputs]. GPTBigCode has one
key and value for all heads.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.embedding import PositionEmbedding
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import GroupedQKV, QKVLayout, StackedQKV
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

GPT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config(PlainConfig):
    """GPT-2."""

    RENAMED: ClassVar = GPT_NAMES

    # Conv1D: weights as [inputs, outputs]
    is_transposed: bool = True
    layout: QKVLayout = StackedQKV("c_attn")
    # Per layer.
    attention_scales: tuple[float, ...]

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("add_cross_attention", unless=False)
        common = super().settings(fields)
        is_scaled = fields.boolean("scale_attn_weights", default=True)
        by_layer = fields.boolean("scale_attn_by_inverse_layer_idx", default=False)
        scale = common["head_dim"] ** -0.5 if is_scaled else 1.0
        return {
            **common,
            "activation": fields.activation("hidden_act", "gelu_new"),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "attention_scales": tuple(
                scale / (layer + 1) if by_layer else scale for layer in range(common["num_layers"])
            ),
        }


@dataclass(frozen=True, kw_only=True)
class GPTBigCodeConfig(GPT2Config):
    """SantaCoder and StarCoder."""

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        is_multi_query = fields.boolean("multi_query", default=True)
        return {
            **common,
            "activation": fields.activation("hidden_act", "gelu_pytorch_tanh"),
            "is_transposed": False,
            "total_num_kv_heads": 1 if is_multi_query else common["total_num_heads"],
            "layout": StackedQKV("c_attn") if is_multi_query else GroupedQKV("c_attn"),
        }


def gpt2_layer(
    config: GPT2Config,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SequentialBlock:
    """Attention and MLP, each on the normed stream and added to it."""
    return SequentialBlock(
        attention_norm=plain_norm(config, weights.scope("ln_1")),
        attention=SelfAttention(
            weights.scope("attn"),
            ranks,
            shape,
            layout=config.layout,
            output="c_proj",
            qkv_bias=True,
            output_bias=True,
            transposed=config.is_transposed,
            scale=config.attention_scales[index],
        ),
        mlp_norm=plain_norm(config, weights.scope("ln_2")),
        mlp=plain_mlp(
            config,
            weights.scope("mlp"),
            ranks,
            ("c_fc", "c_proj"),
            transposed=config.is_transposed,
        ),
    )


def gpt2(config: GPT2Config, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embeddings of tokens and positions, layers, norm, head."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("wte"), ranks)
    positions = PositionEmbedding(
        body.scope("wpe"),
        num_positions=config.max_position_embeddings,
        hidden_size=config.hidden_size,
    )
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: positions.add_to(embedding(inputs.token_ids), inputs.positions),
        layers=[
            gpt2_layer(config, index, shape, body.scope(f"h.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        norm=plain_norm(config, body.scope("ln_f")),
        head=output_head(config, weights, ranks, embedding),
    )
