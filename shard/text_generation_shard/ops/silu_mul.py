"""The gated activation of SwiGLU (Shazeer, 2020)."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where the last dimension holds gate and then up.

    gate_up: [tokens, 2 * intermediate]. Returns [tokens, intermediate].
    """
    native = native_operators(gate_up)
    if native is not None:
        return native.silu_mul(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
