"""Decode steps of the whole engine, as the server makes it, against the bytes that they read."""

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import RankInfo, ShardConfig
from text_generation_shard.shard import Shard
from torch.profiler import ProfilerActivity, profile

from benchmarks.checkpoint import INITIALIZER_RANGE, SHAPES, LlamaShape, write_checkpoint
from benchmarks.gpu_kernels import BLOCK_SIZE, share_of_bandwidth
from benchmarks.gpu_loading import file_bytes, measure_loading
from benchmarks.gpu_rows import GpuRow, attempt

# Rows and context.
STEPS = ((1, 1024), (8, 1024), (32, 1024), (128, 1024), (256, 512))
WARM_STEPS = 4
STEPS_PER_MEASUREMENT = 24
TRACED_STEPS = 4
MAX_TOTAL_TOKENS = 2048
ALONE = RankInfo(rank=0, world_size=1, master_addr="localhost", master_port=0)


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of a named shape in bfloat16, its random weights made on the GPU; made once."""
    path, shape = folder / name, SHAPES[name]
    if (path / "config.json").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    write_checkpoint(path, shape, dtype="bfloat16", draw=_draw)
    return path


def _draw(_index: int, dimensions: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """The bits of one tensor in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.ones(dimensions, dtype=torch.bfloat16, device=device)
    if len(dimensions) > 1:
        weight.normal_(std=INITIALIZER_RANGE)
    yield weight.view(torch.int16).cpu().numpy()


def measure_steps(
    part: str,
    name: str,
    folder: Path,
    *,
    is_profiled: bool = False,
    compares_loading: bool = False,
) -> Iterator[GpuRow]:
    """Milliseconds of a step with greedy sampling, from the request to the result on the host.

    is_profiled: write a trace of some steps of each kind, for chrome://tracing or Perfetto;
    compares_loading: load the weights in both ways first.
    """
    started = time.perf_counter()
    path = checkpoint(name, folder)
    elapsed = time.perf_counter() - started
    yield GpuRow(part=part, name="make the weights", value=elapsed, unit="s")
    if compares_loading:
        yield from attempt(part, "load", partial(measure_loading, part, path), needs_s=8)
    buckets = tuple(rows for rows, _ in STEPS)
    with torch.inference_mode():
        started = time.perf_counter()
        shard = Shard.load(ShardConfig(model_path=str(path), cuda_graphs=buckets), ALONE)
        gb_per_s = file_bytes(path) / (time.perf_counter() - started) / 1e9
        yield GpuRow(part=part, name="load", value=gb_per_s, unit="GB/s")
        warm = pb.WarmupRequest(
            max_slots=max(rows for rows, _ in STEPS),
            max_step_tokens=2048,
            block_size=BLOCK_SIZE,
            max_total_tokens=MAX_TOTAL_TOKENS,
        )
        shard.warm_up(warm)
        elapsed = time.perf_counter() - started
        yield GpuRow(part=part, name="load and warm up", value=elapsed, unit="s")
        for rows, context in STEPS:
            label = f"{rows} rows, context {context}"
            trace = folder / f"trace-{part}-{rows}x{context}.json.gz" if is_profiled else None
            measure = partial(_step_row, part, label, shard, SHAPES[name], rows, context, trace)
            yield from attempt(part, label, partial(measure, folder), needs_s=3)
        label = f"prefill of {MAX_TOTAL_TOKENS - 1} tokens"
        yield from attempt(part, label, partial(_prefill_row, part, label, shard), needs_s=2)
        if shard.graphs is not None:
            yield GpuRow(part=part, name="decode graphs", value=shard.graphs.count)
            mib = shard.graphs.num_bytes / (1 << 20)
            yield GpuRow(part=part, name="memory of the decode graphs", value=mib, unit="MiB")
        shard.close()


def _step_row(
    part: str,
    label: str,
    shard: Shard,
    shape: LlamaShape,
    rows: int,
    context: int,
    trace: Path | None,
    folder: Path,
) -> Iterator[GpuRow]:
    taken = _step_seconds(shard, rows, context)
    share = share_of_bandwidth(step_bytes(shape, rows, context), taken, folder)
    yield GpuRow(part=part, name=label, value=taken * 1000, unit="ms", share=share)
    if trace is not None:
        _trace(shard, rows, trace)


def _prefill_row(part: str, label: str, shard: Shard) -> Iterator[GpuRow]:
    taken = _prefill_seconds(shard, MAX_TOTAL_TOKENS - 1)
    yield GpuRow(part=part, name=label, value=taken * 1000, unit="ms")


def step_bytes(shape: LlamaShape, rows: int, context: int) -> int:
    """Weights but the embedding's table (where it is not the head's), keys and values; bfloat16."""
    table = shape.vocab_size * shape.hidden_size
    weights = shape.num_parameters() - (0 if shape.tie_word_embeddings else table)
    kv = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * context * rows
    return 2 * (weights + kv)


def _step_seconds(shard: Shard, rows: int, context: int) -> float:
    """Of one step, launched before the last one is read, as the server does; not counted are the
    first ones, and the graphs that are recorded after them.
    """
    shard.reset()
    num_steps = WARM_STEPS + STEPS_PER_MEASUREMENT + TRACED_STEPS
    num_blocks = -(-(context + num_steps) // BLOCK_SIZE)
    steps = [_request(step, rows) for step in range(1, WARM_STEPS + STEPS_PER_MEASUREMENT + 1)]
    for slot in range(rows):
        first = 1 + slot * num_blocks
        steps[0].admissions.append(_admission(slot, context, range(first, first + num_blocks)))
    for request in steps[:WARM_STEPS]:
        shard.step(request)
    while shard.work_while_idle():
        pass
    started = time.perf_counter()
    answers = deque([shard.begin(steps[WARM_STEPS])])
    for request in steps[WARM_STEPS + 1 :]:
        answers.append(shard.begin(request))
        answers.popleft()()
    answers.popleft()()
    return (time.perf_counter() - started) / STEPS_PER_MEASUREMENT


def _trace(shard: Shard, rows: int, path: Path) -> None:
    """Of steps that go on where the last measurement ended; its blocks have room for them."""
    first = 1 + WARM_STEPS + STEPS_PER_MEASUREMENT
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for step in range(first, first + TRACED_STEPS):
            shard.step(_request(step, rows))
    trace.export_chrome_trace(str(path))


def _prefill_seconds(shard: Shard, tokens: int) -> float:
    """The best of three."""
    best = float("inf")
    for _ in range(3):
        shard.reset()
        request = pb.StepRequest(step=1, work_slots=[0], work_num_tokens=[tokens])
        admission = _admission(0, tokens, range(1, 1 + -(-tokens // BLOCK_SIZE)))
        admission.num_cached_tokens = 0
        request.admissions.append(admission)
        started = time.perf_counter()
        shard.step(request)
        best = min(best, time.perf_counter() - started)
    return best


def _request(step: int, rows: int) -> pb.StepRequest:
    return pb.StepRequest(step=step, work_slots=range(rows), work_num_tokens=[1] * rows)


def _admission(slot: int, length: int, block_ids: range) -> pb.Admission:
    """All but the last token are said to be in the cache: what lies there is of no account."""
    sampling = pb.SamplingParameters(temperature=1, top_p=1, typical_p=1, repetition_penalty=1)
    return pb.Admission(
        slot=slot,
        sequence_id=slot,
        token_ids=[(7 * index + slot) % 1000 for index in range(length)],
        num_cached_tokens=length - 1,
        block_ids=block_ids,
        sampling=sampling,
    )
