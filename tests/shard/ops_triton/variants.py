"""Prints how many variants of every kernel steps of different sizes would compile, as JSON.

A process of its own, for the kernels must not be the interpreter's. Nothing is compiled: what a
launch asks for is compared.
"""

import json
from collections import defaultdict
from typing import Any

import torch
from text_generation_shard.batch.sampling_table import SamplingTable
from text_generation_shard.ops.linear import MatrixStack
from text_generation_shard.ops.mix_experts import Experts, Routing
from text_generation_shard.ops.triton.experts import mix_experts
from text_generation_shard.ops.triton.geometry import DeviceGeometry
from text_generation_shard.ops.triton.paged_attention import paged_attention
from text_generation_shard.runner.decode_graphs import SamplingKind
from text_generation_shard.sampling import fused
from text_generation_shard.sampling.parameters import SamplingFeatures

import tools.compile_kernels as compiler

CPU = torch.device("cpu")
VOCAB_SIZE = 100
SIZES = range(1, 9)


def sample(num_rows: int) -> None:
    """With all filters and penalties; histories are as wide as there are rows."""
    table = SamplingTable(max(SIZES), VOCAB_SIZE, CPU)
    features = SamplingFeatures(
        rows=dict.fromkeys(SamplingKind.PENALISED.value, tuple(range(num_rows)))
    )
    slots = torch.arange(num_rows)
    tokens = torch.zeros(max(SIZES), 15 + num_rows, dtype=torch.int32)
    rows = table.device_rows(slots, slots + 1, tokens, features)
    fused.sample(torch.zeros(num_rows, VOCAB_SIZE), rows)


def attend(num_decodes: int) -> None:
    """Decodes, and two chunks of three tokens."""
    lengths = [1] * num_decodes + [3, 3]
    cache, query = torch.zeros(3, 16, 2, 16), torch.zeros(sum(lengths), 4, 16)
    tables = torch.zeros(len(lengths), 7, dtype=torch.int32)
    geometry = DeviceGeometry.of(tables, lengths, [300] * len(lengths))
    paged_attention(query, cache, cache, geometry, window=None, scale=1.0)


def mix(num_tokens: int) -> None:
    """Two of eight experts, and an addend."""
    x = torch.zeros(num_tokens, 32)
    routing = Routing(torch.zeros(num_tokens, 2).long(), torch.zeros(num_tokens, 2))
    stacks = (MatrixStack([], torch.zeros(shape)) for shape in ((8, 96, 32), (8, 32, 48)))
    experts = Experts(**dict(zip(("gate_up", "down"), stacks, strict=True)), activation="silu")
    mix_experts(x, routing, experts, x, weighs_inputs=False)


def main() -> None:
    compiler.driver.set_active(compiler._Target())
    variants: defaultdict[str, set[str]] = defaultdict(set)

    def note(kernel: Any, *args: Any, warmup: bool = False, **options: Any) -> None:
        del warmup
        options.pop("grid")
        bind = kernel.device_caches[0][-1]
        variants[kernel.__name__].add(str(bind(*args, **options)[1:]))

    compiler.JITFunction.run = note
    for size in SIZES:
        sample(size)
        attend(size)
        mix(size)
    print(json.dumps({name: len(found) for name, found in variants.items()}))


if __name__ == "__main__":
    main()
