"""The encoder of T5."""

from torch import Tensor

from text_generation_shard.batch.encoder_slots import EncoderInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.block import FeedForward
from text_generation_shard.layers.embedding import VocabParallelEmbedding
from text_generation_shard.layers.encoder_attention import EncoderAttention
from text_generation_shard.layers.mlp import MLP, GatedMLP
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.relative_bias import BidirectionalBias, Buckets
from text_generation_shard.models.t5_config import T5Config
from text_generation_shard.weights.scope import WeightScope

QKV = SeparateQKV("q", "k", "v")


def t5_norm(config: T5Config, weights: WeightScope) -> RMSNorm:
    """The norm under `weights`."""
    return RMSNorm(weights, size=config.hidden_size, eps=config.rms_norm_eps)


def t5_mlp(config: T5Config, weights: WeightScope, ranks: RankGroup) -> FeedForward:
    """The feed-forward layer, with a gate or without."""
    if config.is_gated:
        return GatedMLP(
            weights,
            ranks,
            gate_up=("wi_0", "wi_1"),
            down="wo",
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            activation=config.activation,
        )
    return MLP(
        weights,
        ranks,
        up="wi",
        down="wo",
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        activation=config.activation,
        bias=False,
    )


class T5EncoderLayer:
    """Attention and feed-forward, each on the normed stream and added to it."""

    def __init__(
        self, config: T5Config, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
    ) -> None:
        attention, mlp = weights.scope("layer.0"), weights.scope("layer.1")
        self._attention_norm = t5_norm(config, attention.scope("layer_norm"))
        self._attention = EncoderAttention(
            attention.scope("SelfAttention"), ranks, shape, layout=QKV, output="o", scale=1.0
        )
        self._mlp_norm = t5_norm(config, mlp.scope("layer_norm"))
        self._mlp = t5_mlp(config, mlp.scope("DenseReluDense"), ranks)

    def __call__(self, x: Tensor, inputs: EncoderInputs, diagonals: list[Tensor]) -> Tensor:
        """x: [encoder tokens, hidden]. Returns the same shape."""
        x = x + self._attention(self._attention_norm(x), inputs.lengths, diagonals)
        return self._mlp(x, addend=x, norm=self._mlp_norm)


class T5Encoder:
    """Embedding, layers with one bias for all, norm."""

    def __init__(
        self,
        config: T5Config,
        shape: AttentionShape,
        weights: WeightScope,
        ranks: RankGroup,
        embedding: VocabParallelEmbedding,
    ) -> None:
        self._embedding = embedding
        self._bias = BidirectionalBias(
            weights.scope("block.0.layer.0.SelfAttention.relative_attention_bias"),
            shape,
            Buckets(config.num_buckets, config.max_distance),
        )
        self._layers = [
            T5EncoderLayer(config, shape, weights.scope(f"block.{index}"), ranks)
            for index in range(config.num_encoder_layers)
        ]
        self._norm = t5_norm(config, weights.scope("final_layer_norm"))

    def __call__(self, inputs: EncoderInputs) -> Tensor:
        """What the decoders look at: [encoder tokens, hidden]."""
        x = self._embedding(inputs.token_ids)
        diagonals = [self._bias.diagonals(length) for length in inputs.lengths]
        for layer in self._layers:
            x = layer(x, inputs, diagonals)
        return self._norm(x)
