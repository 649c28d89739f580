"""Mixtral (Jiang et al., 2024), Qwen 2 MoE and Qwen 3 MoE: Llama with experts for MLPs."""

from collections.abc import Callable

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.block import FeedForward
from text_generation_shard.layers.mixture import (
    GatedExpert,
    MixtureOfExperts,
    Router,
    SharedExpert,
    SoftmaxRouter,
)
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.stacked_experts import (
    Projection,
    ReadExpert,
    stacked_experts,
)
from text_generation_shard.models.decoder import Decoder
from text_generation_shard.models.llama import llama, llama_mlp
from text_generation_shard.models.mixture_config import MixtureConfig
from text_generation_shard.weights.scope import WeightScope


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
    block = weights.scope(config.names.block)
    return MixtureOfExperts(
        ranks,
        router=router(
            block.scope("gate"),
            hidden_size=config.hidden_size,
            num_experts=config.num_experts,
            experts_per_token=config.experts_per_token,
            is_normalised=config.is_normalised,
        ),
        experts=stacked_experts(
            weights,
            ranks,
            _read_expert(config, block.scope("experts")),
            num_experts=config.num_experts,
            hidden_size=config.hidden_size,
            intermediate_size=config.expert_size,
            activation=config.activation,
        ),
        shared=_shared_expert(config, block, ranks),
    )


def _read_expert(config: MixtureConfig, experts: WeightScope) -> ReadExpert:
    """Every expert has modules of its own, as an MLP has."""
    hidden, size = config.hidden_size, config.expert_size
    gate, up = config.names.gate_up
    names: dict[Projection, str] = {"gate": gate, "up": up, "down": config.names.down}

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        is_down, stored = projection == "down", experts.scope(f"{expert}.{names[projection]}")
        stored.read_into(
            destination.t() if is_down else destination,
            "weight",
            shape=(hidden, size) if is_down else (size, hidden),
            dim=1 if is_down else 0,
            start=share.start,
        )

    return read


def _shared_expert(
    config: MixtureConfig, block: WeightScope, ranks: RankGroup
) -> SharedExpert | None:
    """The expert that computes all tokens, if there is one."""
    if config.shared_size is None:
        return None
    shared = GatedMLP(
        block.scope(config.names.shared),
        ranks,
        gate_up=config.names.gate_up,
        down=config.names.down,
        hidden_size=config.hidden_size,
        intermediate_size=config.shared_size,
        activation=config.activation,
        is_summed=False,
    )
    if config.names.shared_gate is None:
        return shared
    gate = block.scope(config.names.shared_gate)
    return GatedExpert(gate, shared, hidden_size=config.hidden_size)


def mixtral(config: MixtureConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Llama with `mixture` in its layers."""
    return llama(config, weights, ranks, make_mlp=mixture)
