"""How many threads compute."""

import torch

from text_generation_shard.ops.cpu import library


def use_threads(count: int, device: torch.device) -> None:
    """Compute on so many threads from here on, beside a GPU or without one.

    Where there are C++ operators, their pool has the threads and torch's own operators, which are
    small then, run on the calling one: two pools would take each other's cores, and torch's waits
    for a thread that a neighbour keeps from running. A GPU needs no C++ operators, which may have
    to be built first.
    """
    if device.type != "cpu" or library.operators() is None:
        torch.set_num_threads(count)
        return
    torch.set_num_threads(1)
    library.set_num_threads(count)
