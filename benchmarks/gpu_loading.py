"""How fast weights come to the GPU: in pieces through pinned memory, and from mapped pages."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from text_generation_shard.distributed import RankGroup
from text_generation_shard.models.loading import model_config
from text_generation_shard.models.registry import FAMILIES
from text_generation_shard.weights.reader import CheckpointReader
from text_generation_shard.weights.scope import WeightScope

from benchmarks.gpu_rows import GpuRow

DEVICE = torch.device("cuda")
# What reads for a GPU reads in pieces; what reads for the CPU maps, and the GPU copies from there.
WAYS = {"load, in pieces": DEVICE, "load, from mapped pages": torch.device("cpu")}
RUNS = 2


def measure_loading(part: str, path: Path) -> Iterator[GpuRow]:
    """GB/s of the files, the better of two runs each in turns; files that lie on a disk are in the
    system's cache after the first.
    """
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(RUNS):
        for name, reads_for in WAYS.items():
            best[name] = min(best[name], _seconds(path, reads_for))
    for name, seconds in best.items():
        gb_per_s = file_bytes(path) / seconds / 1e9
        yield GpuRow(part=part, name=name, value=gb_per_s, unit="GB/s")


def file_bytes(path: Path) -> int:
    """Of a checkpoint's weights."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _seconds(path: Path, reads_for: torch.device) -> float:
    """From opening the files to weights in bfloat16 on the GPU, which are then dropped."""
    config = model_config(path)
    family = FAMILIES[config.model_type]
    started = time.perf_counter()
    with CheckpointReader(path, device=reads_for) as reader:
        weights = WeightScope(reader=reader, prefix="", dtype=torch.bfloat16, device=DEVICE)
        model = family.build(config, weights, RankGroup())
        reader.finish(unused=family.tied if config.tie_word_embeddings else ())
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    del model
    return elapsed
