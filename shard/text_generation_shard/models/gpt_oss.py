"""gpt-oss (OpenAI, 2025): attention with sinks, alternating windows, experts with biases.

Experts are stored in bfloat16 or as MXFP4. The outputs of gates and up-projections take turns.
"""

from typing import Any

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.mixture import MixtureOfExperts, SoftmaxRouter
from text_generation_shard.layers.partition import even_range
from text_generation_shard.layers.stacked_experts import Projection, ReadExpert, stacked_experts
from text_generation_shard.models.decoder import Decoder
from text_generation_shard.models.gpt_oss_config import GptOssConfig
from text_generation_shard.models.llama import llama
from text_generation_shard.ops.activation_kind import ClampedSwiGLU
from text_generation_shard.weights.mxfp4 import BLOCK, widen
from text_generation_shard.weights.reader import WeightScope


def _read_bfloat16(config: GptOssConfig, weights: WeightScope) -> ReadExpert:
    """gate_up_proj: [num_experts, hidden, 2 * size]; down_proj: [num_experts, size, hidden]."""
    hidden, size = config.hidden_size, config.expert_size

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        place: dict[str, Any] = {"index": expert, "start": share.start}
        if projection == "down":
            shape = (config.num_experts, size, hidden)
            weights.read_into(destination, "down_proj", shape=shape, dim=1, **place)
            return
        shape, place["start"] = (config.num_experts, hidden, 2 * size), 2 * share.start
        both = destination.new_empty(hidden, 2 * len(share))
        weights.read_into(both, "gate_up_proj", shape=shape, dim=2, **place)
        destination.copy_(both[:, int(projection == "up") :: 2].t())

    return read


def _read_mxfp4(config: GptOssConfig, weights: WeightScope) -> ReadExpert:
    """gate_up_proj: [num_experts, 2 * size, hidden]; down_proj: [num_experts, hidden, size]; the
    last dimension in blocks.
    """
    hidden, size = config.hidden_size, config.expert_size

    def values(name: str, outputs: int, inputs: int, window: tuple[int, slice, slice]) -> Tensor:
        """window: the expert, and of its matrix [outputs, inputs] outputs and blocks of inputs."""
        shape = (config.num_experts, outputs, inputs // BLOCK)
        codes = weights.read_bytes(f"{name}_blocks", shape=(*shape, BLOCK // 2), window=window)
        return widen(codes, weights.read_bytes(f"{name}_scales", shape=shape, window=window))

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        if projection == "down":
            first, last = share.start // BLOCK, -(-share.stop // BLOCK)
            part = values("down_proj", hidden, size, (expert, slice(None), slice(first, last)))
            start = share.start - first * BLOCK
            destination.copy_(part[:, start : start + len(share)].t())
            return
        rows = slice(2 * share.start, 2 * share.stop)
        part = values("gate_up_proj", 2 * size, hidden, (expert, rows, slice(None)))
        destination.copy_(part[int(projection == "up") :: 2])

    return read


def gpt_oss_experts(
    config: GptOssConfig, _index: int, weights: WeightScope, ranks: RankGroup
) -> MixtureOfExperts:
    """The experts of a layer; `weights` are the layer's."""
    block, num_experts, size = weights.scope("mlp"), config.num_experts, config.expert_size
    stored, share = block.scope("experts"), even_range(size, ranks.rank, ranks.world_size)
    read = _read_mxfp4 if "gate_up_proj_blocks" in stored else _read_bfloat16
    both = stored.read("gate_up_proj_bias", (num_experts, 2 * size))
    ups = both.view(num_experts, size, 2)[:, share.start : share.stop].transpose(1, 2).flatten(1)
    downs = stored.read("down_proj_bias", (num_experts, config.hidden_size))

    return MixtureOfExperts(
        ranks,
        router=SoftmaxRouter(
            block.scope("router"),
            hidden_size=config.hidden_size,
            num_experts=num_experts,
            experts_per_token=config.experts_per_token,
            is_normalised=True,
            bias=True,
        ),
        experts=stacked_experts(
            weights,
            ranks,
            read(config, stored),
            num_experts=num_experts,
            hidden_size=config.hidden_size,
            intermediate_size=size,
            activation=ClampedSwiGLU(limit=config.limit, alpha=config.alpha),
            biases=(ups, downs),
        ),
    )


def gpt_oss(config: GptOssConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Llama with sinks in its attention and experts for MLPs."""
    return llama(config, weights, ranks, make_mlp=gpt_oss_experts)
