"""DeepSeek V2 and V3 (DeepSeek-AI, 2024): latent attention, many small experts."""

from functools import partial

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.grouped_routing import GroupedRouter
from text_generation_shard.layers.latent_attention import LatentAttention, LatentShape
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.models.deepseek_config import DeepseekConfig
from text_generation_shard.models.llama import llama_layer
from text_generation_shard.models.mixtral import mixture
from text_generation_shard.weights.scope import WeightScope


def deepseek_attention(
    config: DeepseekConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> LatentAttention:
    """The attention of a layer, under `weights`."""
    assert config.rope is not None and config.attention_scale is not None
    return LatentAttention(
        weights,
        ranks,
        LatentShape(
            heads=shape.query_heads,
            total_num_heads=config.total_num_heads,
            hidden_size=config.hidden_size,
            latent_dim=config.latent_dim,
            query_dim=config.query_dim,
            plain_dim=config.plain_dim,
            turned_dim=config.turned_dim,
            value_dim=config.value_dim,
        ),
        scale=config.attention_scale * config.rope.score_factor,
        bias=config.qkv_bias,
    )


def deepseek_layer(
    config: DeepseekConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SequentialBlock:
    """Llama's, but for the two halves."""
    router = partial(
        GroupedRouter,
        groups=config.groups,
        scale=config.routing_scale,
        is_biased=config.is_biased,
    )
    return llama_layer(
        config,
        weights,
        attention=deepseek_attention(config, shape, weights.scope("self_attn"), ranks),
        mlp=mixture(config, index, weights, ranks, router=router),
    )


def deepseek(config: DeepseekConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    assert config.rope is not None
    rotary = RotaryEmbedding(
        config.rope,
        dtype=weights.dtype,
        device=weights.device,
        interleaved=config.is_interleaved,
    )
    return Decoder(
        config,
        cache_spec(config, shape, weights, latent_dim=config.latent_dim),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            deepseek_layer(config, index, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary] * config.num_layers,
        norm=RMSNorm(body.scope("norm"), size=config.hidden_size, eps=config.rms_norm_eps),
        head=output_head(config, weights, ranks, embedding),
    )


def draft_layers(config: DeepseekConfig) -> str:
    """Pattern of the tensors of layers that predict further tokens."""
    first = config.num_layers
    numbers = [str(layer) for layer in range(first, first + config.num_draft_layers)]
    return rf"^model\.layers\.({'|'.join(numbers)})\." if numbers else r"(?!)"
