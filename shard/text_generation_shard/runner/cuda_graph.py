"""Recording what a function launches on a GPU, to launch it again as one."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from text_generation_shard.runner.step_graph import StepGraph, copied


class CudaGraphRecorder:
    """Records CUDA graphs, which share one memory pool: only one of them may run at a time.

    All are recorded on one stream, for memory of the pool serves only the stream that asked for it,
    as does a workspace of cuBLAS.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """See `GraphRecorder`; the driver's part, the launches themselves, is most of it."""
        return self._num_bytes

    def record(self, compute: Callable[[], None]) -> StepGraph:
        """See `GraphRecorder`. The first call compiles kernels and chooses algorithms, which a
        recording must not do. RuntimeError where it waits for the device: that cannot be recorded,
        and a recording that breaks off leaves allocator and stream unfit for other work.
        """
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        try:
            with torch.cuda.stream(self._stream), _refusing_to_wait():
                compute()
        finally:
            here.wait_stream(self._stream)
        before = self._free_bytes()
        graph = torch.cuda.CUDAGraph()
        # Other threads use CUDA as well: only what this one does may break the recording. One that
        # breaks off would leave its stream the current one, and all that follows would run there.
        with (
            torch.cuda.stream(here),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            compute()
        self._num_bytes += max(0, before - self._free_bytes())
        return graph

    def show(self, values: Tensor, memory: Tensor) -> Tensor:
        """See `GraphRecorder`: graphs recorded later may use the memory of the values."""
        return copied(values, memory)

    def _free_bytes(self) -> int:
        """Of the device, if the allocator kept nothing for later: a recording gives that back."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """RuntimeError where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # That it is a prototype and does not see every wait: what it misses fails in the recording.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
