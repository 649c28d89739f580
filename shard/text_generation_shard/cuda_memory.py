"""What PyTorch's allocators hold of a GPU's memory, and of the host's for it, and may take yet."""

import torch

# Share of a GPU's memory that is left for what the allocator does not count: the code of kernels,
# recorded graphs, buffers of NCCL.
_HEADROOM = 0.04


def available_bytes(device: torch.device, fraction: float) -> int:
    """Bytes that may be allocated yet, if `fraction` of the whole may be used."""
    # What an engine before left with the allocator is free, though the driver does not know.
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free - (1 - fraction * (1 - _HEADROOM)) * total)


def free_pinned_memory() -> None:
    """Give the system what the allocator keeps of pinned host memory that nobody uses."""
    # As `torch.cuda.graph` does; a function of the public interface came after torch 2.11.
    torch._C._host_emptyCache()  # noqa: SLF001


class PeakReserved:
    """How far the memory that the allocator holds rises above where it was when this was made."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        self._device = device
        self._start = torch.cuda.memory_reserved(device)

    def growth(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_reserved(self._device) - self._start
