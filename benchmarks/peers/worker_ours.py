"""This server's engine without HTTP: `MODEL STORAGE THREADS`, as `benchmarks.storage` has them."""

import sys
from pathlib import Path

import torch

from benchmarks.peers.protocol import serve
from benchmarks.storage import StorageEngine


class OurEngine:
    def __init__(self, model: Path, storage: str, num_threads: int) -> None:
        self._engine = StorageEngine(model, storage, num_threads)

    def begin(self, num_sequences: int, num_tokens: int) -> None:
        self._engine.begin(num_sequences, num_tokens)

    def step(self) -> None:
        self._engine.step()


if __name__ == "__main__":
    model, storage, threads = sys.argv[1:]
    with torch.inference_mode():
        serve(lambda: OurEngine(Path(model), storage, int(threads)))
