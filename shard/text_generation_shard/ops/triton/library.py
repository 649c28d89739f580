"""Whether Triton's kernels take a tensor, and what they need to know of its device."""

import functools
import importlib.util
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Of an H100 or H200: assumed where there is no device to ask, in the interpreter and the compiler.
_DEFAULT_MULTIPROCESSORS = 132


def takes(x: Tensor) -> bool:
    """Whether the kernels compute on this tensor, or the torch reference does."""
    return x.is_cuda and _is_installed()


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """How many programs a device runs side by side, at least."""
    if device.type != "cuda":
        return _DEFAULT_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _is_installed() -> bool:
    if importlib.util.find_spec("triton") is not None:
        return True
    logger.warning(
        "Triton is not installed: serving with torch alone, several times slower on this GPU"
    )
    return False
