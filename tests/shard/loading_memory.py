"""A process of its own that loads a checkpoint and tells how much memory that took at its worst.

    python -m tests.shard.loading_memory PATH STORAGE WORLD_SIZE [STORAGE WORLD_SIZE ...]

Looks where the most is alive: when a part of a tensor has just been read or copied, and when a
matrix has just been packed. Counts anonymous memory only: pages of the mapped file are the system's
to take back.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from text_generation_shard.distributed import RankGroup
from text_generation_shard.models.loading import load_model, model_config
from text_generation_shard.weights import reader, scope
from text_generation_shard.weights.storage import DENSE, PACKED


class Peak:
    """The most that was seen since `start`, in bytes."""

    def start(self) -> None:
        gc.collect()
        self._before = self.bytes = 0
        self._before = _anonymous_bytes()

    def now(self) -> int:
        return _anonymous_bytes() - self._before

    def look(self) -> None:
        self.bytes = max(self.bytes, self.now())


class WatchedSlices:
    """safetensors' handle of a tensor."""

    def __init__(self, slices: Any, peak: Peak) -> None:
        self._slices, self._peak = slices, peak

    def __getitem__(self, window: Any) -> Any:
        part = self._slices[window]
        self._peak.look()
        return part


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon")


def measure(path: Path, storage: str, world_size: int, peak: Peak) -> dict[str, int]:
    """Bytes: of the weights as the model counts them, in use afterwards, at the worst moment."""
    peak.start()
    loaded = load_model(
        path,
        model_config(path),
        RankGroup(rank=0, world_size=world_size),
        dtype=torch.float32,
        device=torch.device("cpu"),
        storage=DENSE if storage == "dense" else PACKED[storage],
    )
    gc.collect()
    return {"kept": loaded.weight_bytes, "stays": peak.now(), "peak": peak.bytes}


def main() -> None:
    path, *cases = sys.argv[1:]
    peak = Peak()
    find, pack = reader.CheckpointReader._find, scope.pack_parts

    def watched_find(self: Any, name: str, shape: tuple[int, ...]) -> Any:
        peak.look()
        stored = find(self, name, shape)
        if not isinstance(stored.slices, WatchedSlices):
            stored.slices = WatchedSlices(stored.slices, peak)
        return stored

    def watched_pack(*args: Any) -> Any:
        packed = pack(*args)
        peak.look()
        return packed

    reader.CheckpointReader._find = watched_find  # type: ignore[method-assign]
    scope.pack_parts = watched_pack
    results = [
        measure(Path(path), storage, int(world_size), peak)
        for storage, world_size in zip(cases[::2], cases[1::2], strict=True)
    ]
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
