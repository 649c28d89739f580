"""What most models before Llama share: layer normalisation, and an MLP without a gate."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.mlp import MLP
from text_generation_shard.layers.norm import LayerNorm
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.fields import Fields
from text_generation_shard.ops.activation_kind import Activation
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class PlainConfig(ModelConfig):
    """Families override what differs."""

    intermediate_size: int
    layer_norm_eps: float
    activation: Activation

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            "intermediate_size": fields.integer("intermediate_size", 4 * common["hidden_size"]),
            "layer_norm_eps": fields.number("layer_norm_eps", 1e-5),
            "activation": fields.activation("hidden_act", "gelu"),
        }


def plain_norm(config: PlainConfig, weights: WeightScope, *, bias: bool = True) -> LayerNorm:
    """Layer normalisation of the stream."""
    return LayerNorm(weights, size=config.hidden_size, eps=config.layer_norm_eps, bias=bias)


def plain_mlp(
    config: PlainConfig,
    weights: WeightScope,
    ranks: RankGroup,
    names: tuple[str, str],
    *,
    bias: bool = True,
    transposed: bool = False,
) -> MLP:
    """down(activation(up(x))); names: of up and down in the checkpoint."""
    return MLP(
        weights,
        ranks,
        up=names[0],
        down=names[1],
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        activation=config.activation,
        bias=bias,
        transposed=transposed,
    )
