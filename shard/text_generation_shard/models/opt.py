"""OPT (Zhang et al., 2022) and Galactica: learned positions, ReLU or GELU.

The smallest but one, OPT-350M, norms after each branch and embeds in fewer dimensions.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import PostNormBlock, SequentialBlock
from text_generation_shard.layers.embedding import PositionEmbedding
from text_generation_shard.layers.linear import whole_linear
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.models.decoder import (
    Decoder,
    Layer,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.plain import PlainConfig, plain_mlp, plain_norm
from text_generation_shard.weights.scope import WeightScope

# Rows of the table of positions that stand for no position.
_POSITION_OFFSET = 2


@dataclass(frozen=True, kw_only=True)
class OPTConfig(PlainConfig):
    """OPT."""

    RENAMED: ClassVar = {"intermediate_size": "ffn_dim", "hidden_act": "activation_function"}

    embedding_size: int
    has_bias: bool
    is_norm_first: bool
    has_final_norm: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("layer_norm_elementwise_affine", unless=True)
        common = super().settings(fields)
        is_norm_first = fields.boolean("do_layer_norm_before", default=True)
        is_removed = fields.boolean("_remove_final_layer_norm", default=False)
        return {
            **common,
            "activation": fields.activation("hidden_act", "relu"),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=True),
            "embedding_size": fields.integer("word_embed_proj_dim", common["hidden_size"]),
            "has_bias": fields.boolean("enable_bias", default=True),
            "is_norm_first": is_norm_first,
            "has_final_norm": is_norm_first and not is_removed,
        }


def opt_layer(
    config: OPTConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> Layer:
    """Attention and MLP, normed before or after."""
    block = SequentialBlock if config.is_norm_first else PostNormBlock
    return block(
        attention_norm=plain_norm(config, weights.scope("self_attn_layer_norm")),
        attention=SelfAttention(
            weights.scope("self_attn"),
            ranks,
            shape,
            layout=SeparateQKV(),
            output="out_proj",
            qkv_bias=config.has_bias,
            output_bias=config.has_bias,
        ),
        mlp_norm=plain_norm(config, weights.scope("final_layer_norm")),
        mlp=plain_mlp(config, weights, ranks, ("fc1", "fc2"), bias=config.has_bias),
    )


class OPTEmbedding:
    """Tokens, widened where they are narrower than the stream, plus positions."""

    def __init__(self, config: OPTConfig, weights: WeightScope, ranks: RankGroup) -> None:
        size, narrow = config.hidden_size, config.embedding_size
        self.tokens = token_embedding(config, weights.scope("embed_tokens"), ranks, size=narrow)
        self.positions = PositionEmbedding(
            weights.scope("embed_positions"),
            num_positions=config.max_position_embeddings,
            hidden_size=size,
            offset=_POSITION_OFFSET,
        )
        self.widen = None
        if narrow != size:
            self.widen = whole_linear(weights, "project_in", num_inputs=narrow, num_outputs=size)

    def __call__(self, inputs: ModelInputs) -> Tensor:
        """[tokens, hidden]."""
        x = self.tokens(inputs.token_ids)
        if self.widen is not None:
            x = self.widen(x)
        return self.positions.add_to(x, inputs.positions)


class OPTNorm:
    """The last norm, if there is one; then narrowed to the width of the embedding."""

    def __init__(self, config: OPTConfig, weights: WeightScope) -> None:
        self.norm = self.narrow = None
        if config.has_final_norm:
            self.norm = plain_norm(config, weights.scope("final_layer_norm"))
        size, narrow = config.hidden_size, config.embedding_size
        if narrow != size:
            self.narrow = whole_linear(weights, "project_out", num_inputs=size, num_outputs=narrow)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, hidden]. Returns [rows, embedding_size]."""
        if self.norm is not None:
            x = self.norm(x)
        return x if self.narrow is None else self.narrow(x)


def opt(config: OPTConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embeddings of tokens and positions, layers, norm, head."""
    body, shape = weights.body("model").scope("decoder"), attention_shape(config, ranks)
    embedding = OPTEmbedding(config, body, ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=embedding,
        layers=[
            opt_layer(config, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        norm=OPTNorm(config, body),
        head=output_head(config, weights, ranks, embedding.tokens, size=config.embedding_size),
    )
