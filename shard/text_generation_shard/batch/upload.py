"""Numbers that the host knows, on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[Sequence[int]] | np.ndarray[tuple[int], np.dtype[np.int64]]


def upload(values: Numbers, device: torch.device) -> Tensor:
    """int64, of the shape of the values.

    A GPU need not be done with what it was given before: the driver has copied the values when this
    returns, for they do not lie in pinned memory.
    """
    return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device, non_blocking=True)
