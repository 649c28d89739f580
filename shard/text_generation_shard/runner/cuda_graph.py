"""Recording what a function launches on a GPU, to launch it again as one."""

from collections.abc import Callable
from typing import Protocol

import torch


class StepGraph(Protocol):
    """A recorded function of device memory that stays where it was."""

    def replay(self) -> None:
        """Compute it again, on what the memory holds now; does not wait."""


class GraphRecorder(Protocol):
    """Makes graphs of functions."""

    def record(self, compute: Callable[[], None]) -> StepGraph:
        """Record what a function launches; it is called more than once, and its effects are none
        or may happen any number of times.
        """


class CudaGraphRecorder:
    """Records CUDA graphs, which share one memory pool: only one of them may run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Callable[[], None]) -> StepGraph:
        """See `GraphRecorder`. The first call compiles kernels and chooses algorithms, which a
        recording must not do; on the stream that records, for a workspace belongs to a stream.
        """
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            compute()
        graph = torch.cuda.CUDAGraph()
        # Other threads use CUDA as well: only what this one does may break the recording.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            compute()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return graph
