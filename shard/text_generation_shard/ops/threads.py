"""How many threads compute."""

import torch

from text_generation_shard.ops.cpu import library


def use_threads(count: int) -> None:
    """Compute on so many threads from here on.

    Where there are C++ operators, their pool has the threads and torch's own operators, which are
    small then, run on the calling one: two pools would take each other's cores, and torch's waits
    for a thread that a neighbour keeps from running.
    """
    if library.operators() is None:
        torch.set_num_threads(count)
        return
    torch.set_num_threads(1)
    library.set_num_threads(count)
