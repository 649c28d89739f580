"""The selective state space (Mamba; Gu and Dao, 2023): a linear recurrence in every channel."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.sequence_rows import SequenceRows

# Tokens whose states the reference makes at one time: each is [state_size, channels] of float32.
_SPAN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInputs:
    """What varies with the token.

    values, steps, gates: [tokens, channels]; steps are positive; writes, reads: [tokens,
    state_size] (the paper's x, delta, z, B and C).
    """

    values: Tensor
    steps: Tensor
    gates: Tensor
    writes: Tensor
    reads: Tensor


def selective_scan(
    inputs: ScanInputs, rates: Tensor, skip: Tensor, states: Tensor, rows: SequenceRows
) -> Tensor:
    """(sum over n of reads[n] * h[n] + skip * value) * silu(gate), where for every channel and n

        h[n] = exp(step * rates[n]) * h[n] + step * value * writes[n]

    rates: float32 [state_size, channels], negative; skip: float32 [channels]; states: float32
    [slots, state_size, channels], the sequences' h, which the tokens carry on. Returns [tokens,
    channels] in the dtype of the values.
    """
    native = native_operators(inputs.values)
    if native is not None:
        return native.selective_scan(
            inputs.values,
            inputs.steps,
            inputs.gates,
            inputs.writes,
            inputs.reads,
            rates,
            skip,
            states,
            rows.slots,
            rows.first_rows,
        )
    count = rows.num_decodes
    decodes = slice(0, count)
    slots = rows.slots[:count]
    decay, drive = _terms(inputs, rates, decodes)
    states[slots] = hidden = decay.mul_(states[slots]).add_(drive)
    parts = [_read(hidden, inputs, decodes)]
    for index, own in rows.chunks():
        state = states[rows.slots[index]]
        for first in range(own.start, own.stop, _SPAN):
            span = slice(first, min(first + _SPAN, own.stop))
            hidden = _scan(*_terms(inputs, rates, span), state)
            parts.append(_read(hidden, inputs, span))
            state = hidden[-1]
        states[rows.slots[index]] = state
    out = torch.cat(parts).addcmul_(inputs.values.float(), skip)
    return out.mul_(F.silu(inputs.gates.float())).to(inputs.values.dtype)


def _terms(inputs: ScanInputs, rates: Tensor, own: slice) -> tuple[Tensor, Tensor]:
    """What multiplies a state and what is added to it: float32 [tokens, state_size, channels]."""
    steps = inputs.steps[own, None].float()
    driven = steps * inputs.values[own, None].float()
    return torch.exp(steps * rates), driven * inputs.writes[own, :, None].float()


def _scan(decay: Tensor, drive: Tensor, state: Tensor) -> Tensor:
    """The states after each token, [tokens, state_size, channels]: a parallel prefix sum of maps
    h -> decay * h + drive (Hillis and Steele, 1986). Destroys its arguments; divides by nothing.
    """
    distance = 1
    while distance < len(drive):
        reached, before = slice(distance, None), slice(None, -distance)
        drive[reached] += decay[reached] * drive[before]
        decay[reached] = decay[reached] * decay[before]
        distance *= 2
    return decay.mul_(state).add_(drive)


def _read(hidden: Tensor, inputs: ScanInputs, own: slice) -> Tensor:
    return torch.einsum("tnc,tn->tc", hidden, inputs.reads[own].float())
