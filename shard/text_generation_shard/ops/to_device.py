"""What the host made, on the device."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """values, of the CPU, on the device. Nothing waits for a GPU: when it has done what it was
    given before, it copies from pinned memory, which the allocator keeps until then.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
