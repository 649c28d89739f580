"""Numbers that the host knows, on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from text_generation_shard.ops.to_device import to_device

Numbers = Sequence[int] | Sequence[Sequence[int]] | np.ndarray[tuple[int], np.dtype[np.int64]]


def upload(values: Numbers, device: torch.device) -> Tensor:
    """int64, of the shape of the values; see `to_device`."""
    return to_device(torch.from_numpy(np.asarray(values, dtype=np.int64)), device)
