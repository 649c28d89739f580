"""gpt-oss (OpenAI, 2025): attention with sinks, alternating windows, experts with biases.

Experts are stored in bfloat16 or as MXFP4. The outputs of gates and up-projections take turns.
"""

import functools
from functools import partial

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
from text_generation_shard.weights.scope import WeightScope
from text_generation_shard.weights.tensor_part import TensorPart


def _read_bfloat16(config: GptOssConfig, weights: WeightScope) -> ReadExpert:
    """gate_up_proj: [num_experts, hidden, 2 * size]; down_proj: [num_experts, size, hidden]."""
    num_experts, hidden, size = config.num_experts, config.hidden_size, config.expert_size

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        if projection == "down":
            shape, start = (num_experts, size, hidden), share.start
            weights.read_into(
                destination, "down_proj", shape=shape, dim=1, start=start, index=expert
            )
            return
        shape, start = (num_experts, hidden, 2 * size), _output(projection, share.start)
        weights.read_into(
            destination.t(), "gate_up_proj", shape=shape, dim=2, start=start, step=2, index=expert
        )

    return read


def _read_mxfp4(config: GptOssConfig, weights: WeightScope) -> ReadExpert:
    """gate_up_proj: [num_experts, 2 * size, hidden]; down_proj: [num_experts, hidden, size]; the
    last dimension in blocks.
    """
    hidden, size = config.hidden_size, config.expert_size
    shapes = {
        "gate_up_proj": (config.num_experts, 2 * size, hidden // BLOCK),
        "down_proj": (config.num_experts, hidden, size // BLOCK),
    }

    @functools.cache
    def exponents(name: str) -> Tensor:
        return weights.read_bytes(f"{name}_scales", shape=shapes[name])

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        name = "down_proj" if projection == "down" else "gate_up_proj"
        place = partial(TensorPart, shape=(*shapes[name], BLOCK // 2), index=expert)
        scales = exponents(name)[expert]
        if projection == "down":
            first, last = share.start // BLOCK, -(-share.stop // BLOCK)
            part = place(dim=2, start=first, length=last - first)
            scales = scales[:, first:last]
            # Of the first block, and of the last, others may have some inputs.
            inputs = slice(share.start - first * BLOCK, share.stop - first * BLOCK)
            destination = destination.t()
        else:
            start = _output(projection, share.start)
            part, inputs = place(dim=1, start=start, step=2, length=len(share)), slice(None)

        def values(codes: Tensor, rows: range) -> Tensor:
            return widen(codes, scales[rows.start : rows.stop : rows.step])[:, inputs]

        weights.read_coded_into(destination, f"{name}_blocks", part, values)

    return read


def _output(projection: Projection, dimension: int) -> int:
    """Which output of gate_up_proj is a gate's or an up-projection's."""
    return 2 * dimension + int(projection == "up")


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
