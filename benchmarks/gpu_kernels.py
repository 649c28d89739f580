"""Ceilings of a GPU, and its kernels against them.

A kernel is recorded as a CUDA graph of many calls on different memory, more than the cache holds,
and the graph is timed: so neither the launches nor the cache count.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from text_generation_shard.attention_choice import PromptShape, PromptTrial
from text_generation_shard.kv_cache import KVCacheSpec
from text_generation_shard.ops.activation import gated_activation
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.flash_attention import CUDNN, FlashAttention, flash_kernels
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.linear import DenseWeight, MatrixStack
from text_generation_shard.ops.mix_experts import mix_experts
from text_generation_shard.ops.paged_attention import paged_attention, plan_decode
from text_generation_shard.ops.rms_norm import add_rms_norm
from torch import Tensor

from benchmarks.gpu_rows import GpuRow, attempt, read_rows

GIGA = 1e9
CALLS = 32
# Bytes between two uses of the same memory.
CACHE_BYTES = 200_000_000
BLOCK_SIZE = 64
# Of a small Mixtral: experts, of which two compute a token, hidden and intermediate dimensions.
EXPERTS, HIDDEN, INTERMEDIATE = 8, 2048, 7168
# What rows ask of the sampler.
FILTERS: dict[str, dict[str, float]] = {
    "no filter": {},
    "top-k and top-p": {"top_k": 50, "top_p": 0.9},
    "typical-p": {"typical_p": 0.9},
}


def seconds(calls: Sequence[Callable[[], Any]], repeats: int = 5) -> float:
    """Of one call, the best of several replays of all of them."""
    for call in calls[:2]:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    best = float("inf")
    for _ in range(repeats):
        begin, end = (_event() for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1000)
    return best / len(calls)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def rotated(make: Callable[[], Callable[[], Any]], num_bytes: int) -> list[Callable[[], Any]]:
    """CALLS calls of copies that together do not fit in the cache."""
    copies = [make() for _ in range(max(1, min(CALLS, -(-CACHE_BYTES // num_bytes))))]
    return list(islice(cycle(copies), CALLS))


def measure_ceilings() -> Iterator[GpuRow]:
    """Reads, copies, and products of square bfloat16 matrices of random numbers."""
    for name, measure in (("read", _read), ("copy", _copy), ("bfloat16 product", _product_rate)):
        yield from attempt("ceilings", name, partial(_ceiling, name, measure))


def _ceiling(name: str, measure: Callable[[], tuple[float, str]]) -> Iterator[GpuRow]:
    value, unit = measure()
    yield GpuRow(part="ceilings", name=name, value=value, unit=unit)


def _read() -> tuple[float, str]:
    x = _random(1 << 29)
    return x.nbytes / seconds([lambda: x.view(torch.int32).max()] * 4) / GIGA, "GB/s"


def _copy() -> tuple[float, str]:
    x = _random(1 << 29)
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds([lambda: y.copy_(x)] * 4) / GIGA, "GB/s"


def _product_rate() -> tuple[float, str]:
    a, b = _random(8192, 8192), _random(8192, 8192)
    return 2 * 8192**3 / seconds([lambda: a @ b] * 4) / 1e12, "TFLOP/s"


def read_bandwidth(folder: Path) -> float | None:
    """Bytes per second, as `ceilings` measured them; the better of read and copy. None: it has not
    been measured, and nothing is compared with it.
    """
    rows = read_rows(folder / "ceilings.json")
    rates = [row.value for row in rows if row.name in ("read", "copy") and row.value]
    return GIGA * max(rates) if rates else None


def share_of_bandwidth(num_bytes: float, taken: float, folder: Path) -> float | None:
    """Of the time that it takes to move these bytes in the seconds taken."""
    bandwidth = read_bandwidth(folder)
    return None if bandwidth is None else num_bytes / taken / bandwidth


def measure_kernels(folder: Path) -> Iterator[GpuRow]:
    """Of the 8B shape, and experts of another, in bfloat16."""
    for name, num_bytes, make in kernel_calls():
        measure = partial(_kernel, name, num_bytes, make, folder)
        yield from attempt("kernels", name, measure, needs_s=1)
    for kernel in (None, *flash_kernels(), CUDNN):
        for tokens in (2048, 8192):
            owner = "Triton" if kernel is None else kernel.name
            name = f"attention to a prompt of {tokens} tokens, {owner}"
            measure = partial(_prompt_attention, name, tokens, kernel)
            yield from attempt("kernels", name, measure, needs_s=1)


def _kernel(
    name: str, num_bytes: int, make: Callable[[], Callable[[], Any]], folder: Path
) -> Iterator[GpuRow]:
    taken = seconds(rotated(make, num_bytes))
    share = share_of_bandwidth(num_bytes, taken, folder)
    yield GpuRow(part="kernels", name=name, value=taken * 1e6, unit="us", share=share)


def _prompt_attention(name: str, tokens: int, kernel: FlashAttention | None) -> Iterator[GpuRow]:
    """With the gathering of keys and values, where others' kernels need it."""
    spec = KVCacheSpec(
        num_layers=1,
        num_kv_heads=8,
        head_dim=128,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )
    trial = PromptTrial(
        PromptShape(
            spec=spec, num_heads=32, windows=(None,), block_size=BLOCK_SIZE, max_step_tokens=tokens
        )
    )
    if kernel is not None and (obstacle := trial.obstacle(kernel)) is not None:
        raise RuntimeError(obstacle)
    yield GpuRow(part="kernels", name=name, value=trial.milliseconds(kernel), unit="ms")


def kernel_calls() -> Iterator[tuple[str, int, Callable[[], Callable[[], Any]]]]:
    """Name, bytes that must move, and what makes a call with memory of its own."""
    for rows in (1, 32, 256):
        size = rows * 4096 * 2
        yield f"add_rms_norm, {rows} rows", 4 * size, partial(_norm, rows)
        gated = rows * 14336 * 2
        yield f"silu_mul, {rows} rows", 3 * gated, partial(_gate, rows)
    for outputs, inputs in (
        (6144, 4096),
        (4096, 4096),
        (28672, 4096),
        (4096, 14336),
        (128256, 4096),
    ):
        num_bytes = outputs * inputs * 2
        yield f"gemv {outputs} x {inputs}", num_bytes, _product(1, outputs, inputs)
        yield f"cuBLAS 2 x {outputs} x {inputs}", num_bytes, _product(2, outputs, inputs)
    for rows in (1, 32, 256):
        num_bytes = min(EXPERTS, 2 * rows) * 3 * HIDDEN * INTERMEDIATE * 2
        yield f"2 of {EXPERTS} experts, {rows} rows", num_bytes, partial(_experts, rows)
    for rows, context in ((1, 1024), (1, 8192), (32, 1024), (128, 1024), (256, 512)):
        num_bytes = rows * context * 2 * 8 * 128 * 2
        name = f"decode attention, {rows} rows, context {context}"
        yield name, num_bytes, partial(_attention, rows, context, torch.bfloat16)
    for rows, context in ((1, 8192), (128, 1024)):
        num_bytes = rows * context * 2 * 8 * 128
        name = f"decode attention, {rows} rows, context {context}, fp8 cache"
        yield name, num_bytes, partial(_attention, rows, context, torch.float8_e4m3fn)
    for rows in (1, 32, 256):
        for filtered, options in FILTERS.items():
            name = f"sample, {rows} rows, {filtered}"
            yield name, rows * 128256 * 4, _sampling(rows, options)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _norm(rows: int) -> Callable[[], Any]:
    stream, update, weight = _random(rows, 4096), _random(rows, 4096), _random(4096)
    return lambda: add_rms_norm(stream, update, weight, 1e-5)


def _gate(rows: int) -> Callable[[], Any]:
    gate_up = _random(rows, 2 * 14336)
    return lambda: gated_activation(gate_up, "silu")


def _product(rows: int, outputs: int, inputs: int) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        weight, x = DenseWeight(_random(outputs, inputs)), _random(rows, inputs)
        return lambda: weight(x)

    return make


def _experts(rows: int) -> Callable[[], Any]:
    """All experts are chosen equally often."""
    experts = Experts(
        gate_up=MatrixStack([], _random(EXPERTS, 2 * INTERMEDIATE, HIDDEN)),
        down=MatrixStack([], _random(EXPERTS, HIDDEN, INTERMEDIATE)),
        activation="silu",
    )
    chosen = (torch.arange(2 * rows, device="cuda") % EXPERTS).view(rows, 2)
    x, routing = _random(rows, HIDDEN), Routing(chosen, _random(rows, 2))
    return lambda: mix_experts(x, routing, experts, None, weighs_inputs=False)


def _attention(rows: int, context: int, cache_dtype: torch.dtype) -> Callable[[], Any]:
    blocks = context // BLOCK_SIZE
    shape = (1 + rows * blocks, BLOCK_SIZE, 8, 128)
    keys, values = (_random(*shape).to(cache_dtype) for _ in range(2))
    query = _random(rows, 32, 128)
    tables = 1 + torch.randperm(rows * blocks, device="cuda").view(rows, blocks).int()
    plan = plan_decode(
        block_tables=tables,
        contexts=torch.full((rows,), context, dtype=torch.int32, device="cuda"),
        max_context=8192,
        block_size=BLOCK_SIZE,
        sliding_window=None,
    )
    unused = Workspace(keys, values)
    return lambda: paged_attention(query, keys, values, plan, unused, scale=128**-0.5)


def _sampling(rows: int, options: dict[str, float]) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        from text_generation_shard.ops.triton.sample import Draws, Filters, sample

        logits = torch.randn(rows, 128256, device="cuda") * 3
        whole = torch.arange(rows, device="cuda")
        ones = torch.ones(rows, device="cuda")
        draws = Draws(temperature=ones, is_drawn=ones.bool(), seeds=whole, positions=whole)
        filters = Filters(
            top_k=torch.full_like(whole, options.get("top_k", 0)),
            top_p=ones * options.get("top_p", 1),
            typical_p=ones * options.get("typical_p", 1),
            min_p=ones * 0,
        )
        return lambda: sample(logits, draws, filters=filters if options else None)

    return make
