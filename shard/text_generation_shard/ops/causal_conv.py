"""The short convolution before a state space (Gu and Dao, 2023), and its activation."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.sequence_rows import SequenceRows


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, rows: SequenceRows
) -> Tensor:
    """silu(sum over k of weight[k] * x[t - kernel + 1 + k] + bias), every channel by itself.

    x: [tokens, channels]; weight: [kernel, channels]; bias: [channels]; past: [slots, kernel - 1,
    channels], what came before these tokens; it becomes what comes before the next ones. Returns
    [tokens, channels].
    """
    native = native_operators(x)
    if native is not None:
        return native.causal_conv(x, weight, bias, past, rows.slots, rows.first_rows)
    count = rows.num_decodes
    slots = rows.slots[:count]
    window = torch.cat((past[slots], x[:count, None]), dim=1)
    past[slots] = window[:, 1:]
    parts = [(window * weight).sum(1)]
    for index, own in rows.chunks():
        slot = rows.slots[index]
        window = torch.cat((past[slot], x[own]))
        length = own.stop - own.start
        past[slot] = window[length:]
        shifted = (window[k : k + length] * factor for k, factor in enumerate(weight))
        parts.append(torch.stack(tuple(shifted)).sum(0))
    out = torch.cat(parts)
    return F.silu(out if bias is None else out.add_(bias))
