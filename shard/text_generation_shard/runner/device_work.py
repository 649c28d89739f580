"""What a step asks of the device, and how its outcome comes back.

The host launches a step, and goes on to the next one; what it wants to know is copied behind the
step's work into memory that another thread reads when the copy is there.

    device   | step n ............ | copy | step n + 1 ........ | copy |
    host       launch n, launch n + 1      | read n, answer       | read n + 1
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor


class DeviceWork:
    """One step's work; made before anything of it is launched.

    `send_back` is called on the thread that launches, the rest on any. On CPU all is done when
    `send_back` returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: list[Tensor] = []
        self._began = self._mark()
        self._ended = self._began

    def send_back(self, tensors: Sequence[Tensor]) -> None:
        """Begin to copy what was computed. It may be overwritten by what is launched after."""
        # To the CPU without blocking means into pinned memory, which the allocator keeps until the
        # copy is done.
        self._copies = [tensor.to("cpu", non_blocking=True, copy=True) for tensor in tensors]
        self._ended = self._mark()

    def wait(self) -> list[Tensor]:
        """What was sent back, on the host; an error of the device is raised here."""
        if isinstance(self._ended, torch.cuda.Event):
            # A thread that never named a device would make a context on the first one.
            with torch.cuda.device(self._device):
                self._ended.synchronize()
        return self._copies

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        if not isinstance(self._ended, torch.cuda.Event):
            return True
        return bool(self._ended.query())  # type: ignore[no-untyped-call]

    @property
    def microseconds(self) -> int:
        """How long the device worked on it, after `wait`."""
        if isinstance(self._began, torch.cuda.Event) and isinstance(self._ended, torch.cuda.Event):
            return int(self._began.elapsed_time(self._ended) * 1000)
        assert isinstance(self._began, float) and isinstance(self._ended, float)
        return int((self._ended - self._began) * 1e6)

    def _mark(self) -> "torch.cuda.Event | float":
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
