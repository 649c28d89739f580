"""Attention of decode steps on the CPU, by what keys and values are kept in.

    python -m benchmarks.cpu_attention --rounds 5

One layer of 16 query and 4 KV heads of 64 dimensions, one thread. Layers of the same kind are
computed one after the other until they have read far more than a cache holds, as those of a model
are; the kinds take turns.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table
from text_generation_shard.kv_cache import KVCache, KVCacheSpec, LayerCache
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.kv_write import UNSCALED, write_kv
from text_generation_shard.ops.paged_attention import AttentionPlan, paged_attention, plan_attention
from torch import Tensor

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 16, 4, 64, 16
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "int8": torch.int8}
# Bytes that the layers of one kind read together, at least, but for the largest number of layers.
WORKING_SET, MAX_LAYERS = 1 << 27, 48


@dataclass(frozen=True)
class Kind:
    """Layers whose keys and values are kept alike."""

    layers: tuple[LayerCache, ...]
    plan: AttentionPlan
    query: Tensor

    def seconds(self) -> float:
        """Of one layer, on average."""
        started = time.perf_counter()
        for layer in self.layers:
            paged_attention(
                self.query,
                layer.keys,
                layer.values,
                self.plan,
                layer.workspace,
                scale=HEAD_DIM**-0.5,
                kv_scales=layer.scales or UNSCALED,
            )
        return (time.perf_counter() - started) / len(self.layers)


def kind(dtype: torch.dtype | None, num_rows: int, context: int) -> Kind:
    """Random keys and values, in blocks that lie anywhere."""
    blocks = context // BLOCK_SIZE
    num_tokens = num_rows * blocks * BLOCK_SIZE
    spec = KVCacheSpec(
        num_layers=1,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        dtype=torch.float32,
        device=torch.device("cpu"),
        cache_dtype=dtype,
    )
    num_layers = min(MAX_LAYERS, -(-WORKING_SET // (num_tokens * spec.token_bytes)))
    cache = KVCache.allocate(
        replace(spec, num_layers=num_layers),
        num_blocks=1 + num_rows * blocks,
        block_size=BLOCK_SIZE,
        max_total_tokens=context,
        num_slots=num_rows,
    )
    slots = torch.arange(BLOCK_SIZE, BLOCK_SIZE + num_tokens)
    keys, values = torch.randn(2, num_tokens, NUM_KV_HEADS, HEAD_DIM)
    for layer in cache.layers:
        write_kv(keys, values, layer.keys, layer.values, slots, layer.scales or UNSCALED)
    tables = (torch.randperm(num_rows * blocks) + 1).view(num_rows, blocks).int()
    plan = plan_attention(
        block_tables=tables,
        query_lengths=[1] * num_rows,
        context_lengths=[context] * num_rows,
        block_size=BLOCK_SIZE,
        sliding_window=None,
    )
    return Kind(cache.layers, plan, torch.randn(num_rows, NUM_HEADS, HEAD_DIM))


def measure(num_rows: int, context: int, names: list[str], num_rounds: int) -> list[str]:
    """Median milliseconds of a layer, and times as fast as the first kind."""
    kinds = {name: kind(DTYPES[name], num_rows, context) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(num_rounds + 1):
        for name, each in kinds.items():
            seconds = each.seconds()
            if number:
                found[name].append(seconds * 1e3)
    medians = {name: statistics.median(each) for name, each in found.items()}
    first = medians[names[0]]
    return [f"{each:.3f} ({first / each:.2f})" for each in medians.values()]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "int8"])
    options = parser.parse_args()
    library.set_num_threads(1)
    table = Table(title="ms of a layer (times as fast as the first)", title_justify="left")
    for heading in ("rows", "context", *options.dtypes):
        table.add_column(heading)
    with torch.inference_mode():
        for rows, context in itertools.product(options.rows, options.contexts):
            cells = measure(rows, context, options.dtypes, options.rounds)
            table.add_row(str(rows), str(context), *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
