"""Convolution and scan against the torch references, and those against the recurrence itself."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from text_generation_shard.ops.causal_conv import causal_conv
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.ops.selective_scan import ScanInputs, selective_scan
from text_generation_shard.ops.sequence_rows import SequenceRows
from torch import Tensor

# Rows of each sequence; decodes first.
LENGTHS = [(1,), (1, 1, 1), (70,), (1, 1, 33, 2, 5)]
# Channels and state size.
SIZES = [(1, 1), (16, 16), (40, 16), (24, 5), (130, 16)]


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(0)


def rows_of(lengths: tuple[int, ...]) -> SequenceRows:
    return SequenceRows(
        slots=torch.randperm(len(lengths) + 2)[: len(lengths)],
        first_rows=torch.tensor([0, *lengths]).cumsum(0),
        num_decodes=lengths.count(1),
        new_slots=torch.empty(0, dtype=torch.int64),
    )


def scan_inputs(tokens: int, channels: int, state_size: int) -> ScanInputs:
    """Gates and what is written and read as the layer has them: parts of wider rows."""
    return ScanInputs(
        values=torch.randn(tokens, channels),
        steps=F.softplus(torch.randn(tokens, channels)),
        gates=torch.randn(tokens, 2 * channels)[:, channels:],
        writes=torch.randn(tokens, 2 * state_size)[:, :state_size],
        reads=torch.randn(tokens, 2 * state_size)[:, state_size:],
    )


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("channels", [1, 16, 45])
@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_convolution(
    operators: Operators, lengths: tuple[int, ...], channels: int, kernel: int
) -> None:
    rows, tokens = rows_of(lengths), sum(lengths)
    x = torch.randn(tokens, 2 * channels)[:, :channels]
    weight, bias = torch.randn(kernel, channels), torch.randn(channels)
    past = torch.randn(len(lengths) + 2, kernel - 1, channels)
    for added in (bias, None):
        ours, theirs = past.clone(), past.clone()
        actual = operators.causal_conv(x, weight, added, ours, rows.slots, rows.first_rows)
        torch.testing.assert_close(actual, causal_conv(x, weight, added, theirs, rows))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("size", SIZES)
def test_scan(operators: Operators, lengths: tuple[int, ...], size: tuple[int, int]) -> None:
    rows, inputs = rows_of(lengths), scan_inputs(sum(lengths), *size)
    channels, state_size = size
    rates, skip = -torch.rand(state_size, channels) * 4, torch.randn(channels)
    states = torch.randn(len(lengths) + 2, state_size, channels)
    ours, theirs, one_by_one = states.clone(), states.clone(), states.clone()
    actual = operators.selective_scan(
        inputs.values,
        inputs.steps,
        inputs.gates,
        inputs.writes,
        inputs.reads,
        rates,
        skip,
        ours,
        rows.slots,
        rows.first_rows,
    )
    reference = selective_scan(inputs, rates, skip, theirs, rows)
    expected = recurrence(inputs, rates, skip, one_by_one, rows)
    for computed, kept in ((actual, ours), (reference, theirs)):
        torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kept, one_by_one, atol=1e-5, rtol=1e-4)


def recurrence(
    inputs: ScanInputs, rates: Tensor, skip: Tensor, states: Tensor, rows: SequenceRows
) -> Tensor:
    """Token by token, in float64, as the paper writes it."""
    out = torch.empty_like(inputs.values)
    bounds = rows.first_rows.tolist()
    for slot, first, last in zip(rows.slots.tolist(), bounds, bounds[1:], strict=False):
        state = states[slot].double()
        for row in range(first, last):
            step, value = inputs.steps[row].double(), inputs.values[row].double()
            state = state * torch.exp(step * rates) + step * value * inputs.writes[row, :, None]
            out[row] = (state * inputs.reads[row, :, None]).sum(0) + skip * value
        states[slot] = state
    return out * F.silu(inputs.gates)


def test_what_does_not_fit_is_refused(operators: Operators) -> None:
    rows, weight = rows_of((1, 2)), torch.randn(4, 8)
    past = torch.zeros(4, 3, 8)
    x = torch.randn(3, 8)
    with pytest.raises(RuntimeError, match="slot 9 of 4"):
        operators.causal_conv(x, weight, None, past, torch.tensor([0, 9]), rows.first_rows)
    with pytest.raises(RuntimeError, match="first_rows must cover 2 rows"):
        operators.causal_conv(x[:2], weight, None, past, rows.slots, rows.first_rows)
    with pytest.raises(RuntimeError, match="past must be a contiguous CPU tensor"):
        operators.causal_conv(x, weight, None, past[:, :2], rows.slots, rows.first_rows)
