"""Numbers that the host knows, on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[Sequence[int]] | np.ndarray[tuple[int], np.dtype[np.int64]]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """values, of the CPU, on the device. Nothing waits for a GPU: when it has done what it was
    given before, it copies from pinned memory, which the allocator keeps until then.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def upload(values: Numbers, device: torch.device) -> Tensor:
    """int64, of the shape of the values; see `to_device`."""
    return to_device(torch.from_numpy(np.asarray(values, dtype=np.int64)), device)
