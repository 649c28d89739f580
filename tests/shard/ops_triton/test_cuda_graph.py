"""What the recorder asks of torch, without a GPU."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from text_generation_shard.runner.cuda_graph import CudaGraphRecorder


class FakeCuda:
    """Notes which streams record, waits for which, and whether the host may wait."""

    def __init__(self) -> None:
        self.num_streams = 0
        self.recorded_on: list[Any] = []
        self.is_recording = False
        self.mode: int | str = 0
        self.current: object = FakeStream()
        self.free = 1000

    def make_stream(self, _device: torch.device | None = None) -> "FakeStream":
        self.num_streams += 1
        return FakeStream()

    @contextlib.contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, _graph: object, *, stream: object, **_: object) -> Iterator[None]:
        """As torch's: if the recording breaks off, its stream stays the current one."""
        self.recorded_on.append(stream)
        before, self.current = self.current, stream
        self.is_recording = True
        yield
        self.is_recording = False
        self.current = before

    def wait(self) -> None:
        """As `.item()` does on a GPU."""
        if self.is_recording or self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def set_mode(self, mode: int | str) -> None:
        self.mode = mode


class FakeStream:
    def __init__(self) -> None:
        self.waited_for: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited_for.append(other)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    replaced = {
        "Stream": fake.make_stream,
        "stream": fake.stream,
        "current_stream": lambda _: fake.current,
        "graph_pool_handle": object,
        "CUDAGraph": object,
        "graph": fake.graph,
        "get_sync_debug_mode": lambda: fake.mode,
        "set_sync_debug_mode": fake.set_mode,
        "synchronize": lambda _: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda _: (fake.free, 1000),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_all_graphs_are_recorded_on_one_stream(cuda: FakeCuda) -> None:
    """Otherwise each would hold memory and a workspace of its own."""
    recorder = CudaGraphRecorder(torch.device("cuda"))
    calls: list[bool] = []
    for _ in range(3):
        recorder.record(lambda: calls.append(cuda.is_recording))
    assert calls == [False, True] * 3
    assert cuda.num_streams == 1 and len(set(map(id, cuda.recorded_on))) == 1


def test_a_recording_counts_the_memory_that_it_takes(cuda: FakeCuda) -> None:
    recorder = CudaGraphRecorder(torch.device("cuda"))

    def compute() -> None:
        if cuda.is_recording:
            cuda.free -= 30

    recorder.record(compute)
    recorder.record(compute)
    assert recorder.num_bytes == 60


def test_what_waits_is_not_even_tried(cuda: FakeCuda) -> None:
    recorder = CudaGraphRecorder(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="synchronizing"):
        recorder.record(cuda.wait)
    assert cuda.recorded_on == [] and cuda.mode == 0
    # What it had launched until then is waited for by what comes after it.
    assert torch.cuda.current_stream(torch.device("cuda")).waited_for  # type: ignore[attr-defined]


def test_a_recording_that_breaks_off_leaves_the_current_stream(cuda: FakeCuda) -> None:
    recorder, before = CudaGraphRecorder(torch.device("cuda")), cuda.current

    def compute() -> None:
        if cuda.is_recording:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        recorder.record(compute)
    assert cuda.recorded_on and cuda.current is before
