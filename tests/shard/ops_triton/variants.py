"""Prints how many variants of every kernel steps of different sizes would compile, as JSON; of
the sampler's those that warmup compiles, and under "late" any other that a step asks for.

A process of its own, for the kernels must not be the interpreter's. Nothing is compiled: what a
launch asks for is compared.
"""

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from text_generation_shard.batch.sampling_table import SamplingTable
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.linear import MatrixStack
from text_generation_shard.ops.triton.experts import mix_experts
from text_generation_shard.ops.triton.geometry import DeviceGeometry
from text_generation_shard.ops.triton.paged_attention import paged_attention
from text_generation_shard.runner.graph_policy import SamplingKind
from text_generation_shard.sampling import fused
from text_generation_shard.sampling.parameters import NO_FEATURES, SamplingFeatures
from text_generation_shard.sampling.rows import GrammarMask

import tools.compile_kernels as compiler

CPU = torch.device("cpu")
VOCAB_SIZE = 100
SIZES = range(1, 9)


def sample(num_rows: int) -> None:
    """What a graph of each kind samples, and behind a graph rows with masks; histories are as wide
    as there are rows.
    """
    table = SamplingTable(max(SIZES), VOCAB_SIZE, CPU)
    slots = torch.arange(num_rows)
    tokens = torch.zeros(max(SIZES), 15 + num_rows, dtype=torch.int32)
    mask = GrammarMask((0,), torch.zeros(1, -(-VOCAB_SIZE // 32), dtype=torch.int32))
    for kind, grammar in itertools.product(SamplingKind, (None, mask)):
        features = SamplingFeatures(rows=dict.fromkeys(kind.value, tuple(range(num_rows))))
        rows = table.device_rows(slots, slots + 1, tokens, features)
        fused.sample(torch.zeros(num_rows, VOCAB_SIZE), replace(rows, grammar=grammar))


def compile_sampler() -> None:
    table = SamplingTable(max(SIZES), VOCAB_SIZE, CPU)
    one, tokens = torch.ones(1).long(), torch.zeros(max(SIZES), 15, dtype=torch.int32)
    fused.compile_all(table.device_rows(one, one, tokens, NO_FEATURES), VOCAB_SIZE)


def attend(num_decodes: int) -> None:
    """Decodes of short and long contexts, and two chunks of three tokens; the block tables are
    wider with every size, as a serving engine's are than those of its warmup. Also of latent
    vectors.
    """
    lengths = [1] * num_decodes + [3, 3]
    cache, query = torch.zeros(3, 16, 2, 16), torch.zeros(sum(lengths), 4, 16)
    latent, wide_query = torch.zeros(3, 16, 1, 48), torch.zeros(sum(lengths), 4, 48)
    for context in (20, 280):
        tables = torch.zeros(len(lengths), 8 * (num_decodes + 3), dtype=torch.int32)
        geometry = DeviceGeometry.of(tables, lengths, [context] * len(lengths))
        for window in (None, 300):
            attend_to = partial(paged_attention, flash=None, window=window, scale=1.0)
            attend_to(query, cache, cache, geometry, Workspace(cache, cache))
        attend_to = partial(paged_attention, flash=None, window=None, scale=1.0)
        attend_to(wide_query, latent, latent[..., :32], geometry, Workspace(latent, latent))


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
    compile_sampler()
    compiled = {name: set(found) for name, found in variants.items()}
    for size in SIZES:
        sample(size)
    late = [name for name, found in variants.items() if found != compiled[name]]
    for size in SIZES:
        attend(size)
        mix(size)
    counts = {name: len(found) for name, found in variants.items()}
    print(json.dumps({"variants": counts, "late": late}))


if __name__ == "__main__":
    main()
