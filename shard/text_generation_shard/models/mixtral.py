"""Mixtral (Jiang et al., 2024), Qwen 2 MoE and Qwen 3 MoE: Llama with experts for MLPs."""

from collections.abc import Callable

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.mixture import (
    Expert,
    GatedExpert,
    MixtureOfExperts,
    Router,
    SoftmaxRouter,
)
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.models.decoder import Decoder
from text_generation_shard.models.llama import FeedForward, llama, llama_mlp
from text_generation_shard.models.mixture_config import MixtureConfig
from text_generation_shard.weights.reader import WeightScope


def mixture(
    config: MixtureConfig,
    index: int,
    weights: WeightScope,
    ranks: RankGroup,
    *,
    router: Callable[..., Router] = SoftmaxRouter,
) -> FeedForward:
    """The experts of layer `index`, or its MLP; `weights` are the layer's."""
    if index in config.dense_layers:
        return llama_mlp(config, index, weights, ranks)
    names, block = config.names, weights.scope(config.names.block)

    def expert(scope: WeightScope, size: int) -> GatedMLP:
        return GatedMLP(
            scope,
            ranks,
            gate_up=names.gate_up,
            down=names.down,
            hidden_size=config.hidden_size,
            intermediate_size=size,
            activation=config.activation,
            is_summed=False,
        )

    shared: Expert | None = None
    if config.shared_size is not None:
        shared = expert(block.scope(names.shared), config.shared_size)
        if names.shared_gate is not None:
            gate = block.scope(names.shared_gate)
            shared = GatedExpert(gate, shared, hidden_size=config.hidden_size)
    return MixtureOfExperts(
        ranks,
        router=router(
            block.scope("gate"),
            hidden_size=config.hidden_size,
            num_experts=config.num_experts,
            experts_per_token=config.experts_per_token,
            is_normalised=config.is_normalised,
        ),
        experts=[
            expert(block.scope(f"experts.{number}"), config.expert_size)
            for number in range(config.num_experts)
        ],
        shared=shared,
    )


def mixtral(config: MixtureConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Llama with `mixture` in its layers."""
    return llama(config, weights, ranks, make_mlp=mixture)
