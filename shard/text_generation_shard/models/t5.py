"""T5 (Raffel et al., 2020), T5 1.1, FLAN-T5 and mT5 (Xue et al., 2021): encoder and decoder.

Scores are not scaled; positions are a bias by distance, of the first layer and shared by all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError
from text_generation_shard.kv_cache import KVCache, LayerCache
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.embedding import ParallelHead
from text_generation_shard.layers.encoder_attention import CrossAttention
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.relative_bias import Buckets, read_bias
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    token_embedding,
)
from text_generation_shard.models.t5_config import T5Config
from text_generation_shard.models.t5_encoder import QKV, T5Encoder, t5_mlp, t5_norm
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.weights.scope import WeightScope


class T5DecoderLayer:
    """Attention to the output so far, to what the encoder read, and feed-forward."""

    def __init__(
        self,
        config: T5Config,
        shape: AttentionShape,
        weights: WeightScope,
        ranks: RankGroup,
        distance_bias: Tensor,
    ) -> None:
        own, cross, mlp = (weights.scope(f"layer.{index}") for index in range(3))
        self._attention_norm = t5_norm(config, own.scope("layer_norm"))
        self._attention = SelfAttention(
            own.scope("SelfAttention"),
            ranks,
            shape,
            layout=QKV,
            output="o",
            scale=1.0,
            distance_bias=distance_bias,
        )
        self._cross_norm = t5_norm(config, cross.scope("layer_norm"))
        self.cross_attention = CrossAttention(
            cross.scope("EncDecAttention"), ranks, shape, layout=QKV, output="o", scale=1.0
        )
        self._mlp_norm = t5_norm(config, mlp.scope("layer_norm"))
        self._mlp = t5_mlp(config, mlp.scope("DenseReluDense"), ranks)

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        assert inputs.encoder is not None
        x = self._attention(x, rotation, inputs, cache, norm=self._attention_norm, addend=x)
        x = self.cross_attention(self._cross_norm(x), inputs.encoder, cache, addend=x)
        return self._mlp(x, addend=x, norm=self._mlp_norm)


class T5:
    """A decoder, and before it the encoders of the sequences that are new."""

    def __init__(
        self, encoder: T5Encoder, layers: Sequence[T5DecoderLayer], decoder: Decoder
    ) -> None:
        self.config, self.cache_spec = decoder.config, decoder.cache_spec
        self._encoder = encoder
        self._layers = layers
        self._decoder = decoder

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the decoder's last layer: [tokens, hidden]."""
        assert inputs.encoder is not None
        if inputs.encoder.lengths:
            encoded = self._encoder(inputs.encoder)
            for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
                layer.cross_attention.write(encoded, inputs.encoder, layer_cache)
        return self._decoder.forward(inputs, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Float32 [rows, part]: the rank's part of the vocabulary."""
        return self._decoder.logits(hidden)


def t5(config: T5Config, weights: WeightScope, ranks: RankGroup) -> T5:
    """One embedding for both halves, and for the head if the checkpoint has none."""
    if weights.dtype is torch.float16:
        raise CapacityError(
            f"--dtype float16: activations of {config.model_type} leave its range; choose bfloat16 "
            "or float32"
        )
    shape = attention_shape(config, ranks)
    embedding = token_embedding(config, weights.scope("shared"), ranks)
    own_head, body = weights.scope("lm_head"), weights.scope("decoder")
    table = token_embedding(config, own_head, ranks) if "weight" in own_head else embedding
    buckets = Buckets(config.num_buckets, config.max_distance)
    bias_weights = body.scope("block.0.layer.0.SelfAttention.relative_attention_bias")
    distance_bias = read_bias(bias_weights, shape, buckets)[:, buckets.before()].contiguous()
    layers = [
        T5DecoderLayer(config, shape, body.scope(f"block.{index}"), ranks, distance_bias)
        for index in range(config.num_layers)
    ]
    decoder = Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=layers,
        norm=t5_norm(config, body.scope("final_layer_norm")),
        head=ParallelHead(table, ranks, vocab_size=config.vocab_size, scale=config.logit_scale),
    )
    encoder = T5Encoder(config, shape, weights.scope("encoder"), ranks, embedding)
    return T5(encoder, layers, decoder)
