"""Norms, activations, and what a step does once, against the torch references."""

import pytest
import torch
from text_generation_shard.ops.activation import activate, gated_activation, native_activation
from text_generation_shard.ops.activation_kind import ACTIVATIONS, ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.add import add_rows, add_scaled
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.ops.norm import NormWeights, add_and_norm, normed
from text_generation_shard.ops.rotary import rotation
from text_generation_shard.ops.scale import scaled

SIZES = [(0, 8), (1, 1), (3, 17), (5, 64), (70, 129), (300, 600)]
SWIGLU = ClampedSwiGLU(limit=3.0, alpha=1.7)


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["rms", "layer", "layer without bias"])
def test_norm(operators: Operators, kind: str, size: tuple[int, int]) -> None:
    # Far from zero, where the square of the mean is most of the mean of the squares.
    x, update, addend = torch.randn(3, *size)
    x += 5
    bias = torch.randn(size[1]) if kind == "layer" else None
    norm = NormWeights(torch.randn(size[1]), 1e-5, bias, is_centred=kind != "rms")
    close = {"atol": 2e-5, "rtol": 2e-5}
    torch.testing.assert_close(operators.norm(x, norm, None), normed(x, norm), **close)
    torch.testing.assert_close(operators.norm(x, norm, addend), normed(x, norm, addend), **close)
    streams = [x.clone(), x.clone()]
    actual = operators.add_and_norm(streams[0], update, 0.5, norm)
    torch.testing.assert_close(actual, add_and_norm(streams[1], update, norm, scale=0.5), **close)
    torch.testing.assert_close(*streams)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
def test_activation(
    operators: Operators, activation: GatedActivation, size: tuple[int, int]
) -> None:
    x = torch.randn(size[0], 2 * size[1]) * 5
    # In float64: torch's own GELUs lose the tail in float32.
    wide, close = x.double(), {"atol": 1e-7, "rtol": 2e-5}
    plain, gated = (native_activation(activation, is_gated=gate) for gate in (False, True))
    assert isinstance(activation, str)
    expected = activate(wide, activation).float()
    torch.testing.assert_close(operators.activate(x, plain), expected, **close)
    expected = gated_activation(wide, activation).float()
    torch.testing.assert_close(operators.activate(x, gated), expected, **close)


@pytest.mark.parametrize("size", SIZES)
def test_clamped_swiglu(operators: Operators, size: tuple[int, int]) -> None:
    x = torch.randn(size[0], 2 * size[1]) * 5
    actual = operators.activate(x, native_activation(SWIGLU, is_gated=True))
    torch.testing.assert_close(actual, gated_activation(x, SWIGLU), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", [*sorted(set(ACTIVATIONS.values())), SWIGLU])
def test_activation_far_from_zero(operators: Operators, activation: GatedActivation) -> None:
    gates = torch.tensor([[-1e30, -200.0, -90.0, -13.0, 90.0, 200.0, float("nan")]])
    gate_up = torch.cat((gates, torch.ones_like(gates)), dim=-1)
    actual = operators.activate(gate_up, native_activation(activation, is_gated=True))
    expected = gated_activation(gate_up, activation)
    # e^-87 is the least that there is: 1e30 of it are not nothing.
    tolerance = {"atol": 2e-7} if activation == "relu" else {"atol": 1e30 * 2e-38}
    torch.testing.assert_close(actual, expected, **tolerance, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
def test_add(operators: Operators, size: tuple[int, int]) -> None:
    x, update = torch.randn(2, *size)
    table, ids = torch.randn(9, size[1]), torch.randint(9, size[:1])
    expected = add_rows(x.clone(), table, ids)
    operators.add(actual := x.clone(), table, ids, 1.0)
    torch.testing.assert_close(actual, expected)
    expected = add_scaled(x.clone(), update, 0.7)
    operators.add(actual := x.clone(), update, None, 0.7)
    torch.testing.assert_close(actual, expected)


def test_a_row_outside_the_table_is_refused(operators: Operators) -> None:
    with pytest.raises(RuntimeError, match="slot 9 of 9"):
        operators.add(torch.zeros(1, 3), torch.zeros(9, 3), torch.tensor([9]), 1.0)


@pytest.mark.parametrize("size", [*SIZES, (2, 20001)])
@pytest.mark.parametrize("soft_cap", [None, 7.0])
@pytest.mark.parametrize("has_bias", [True, False])
def test_scale(
    operators: Operators, size: tuple[int, int], soft_cap: float | None, has_bias: bool
) -> None:
    x = torch.randn(size) * 30
    if size[0] > 2:
        x[0, :2] = torch.tensor([1e6, -float("inf")])[: size[1]]
        x[2, -1] = float("nan")
    bias = torch.randn(size[1]) if has_bias else None
    expected = scaled(x, 0.3, bias=bias, soft_cap=soft_cap)
    operators.scale(x, bias, 0.3, soft_cap or 0.0)
    if soft_cap is not None:
        # Infinite scores are no numbers then, and are reported like those.
        is_finite = ~x.isnan()
        assert torch.equal(is_finite, expected.isfinite() & (expected.abs() <= soft_cap))
        x, expected = x[is_finite], expected[is_finite]
    torch.testing.assert_close(x, expected, atol=3e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("half", [1, 4, 20, 64])
@pytest.mark.parametrize("is_interleaved", [True, False])
@pytest.mark.parametrize("by_token", [True, False])
def test_rotation(operators: Operators, half: int, is_interleaved: bool, by_token: bool) -> None:
    positions = torch.tensor([0, 1, 7, 4095, 131071])
    frequencies = 10000.0 ** -(torch.arange(half) / half)
    if by_token:
        frequencies = frequencies * torch.rand(len(positions), 1)
    expected = rotation(
        positions,
        frequencies,
        factor=1.3,
        is_interleaved=is_interleaved,
        dtype=torch.float32,
    )
    actual = operators.rotation(positions, frequencies, 1.3, is_interleaved)
    torch.testing.assert_close(actual, tuple(expected[:2]), atol=1e-6, rtol=1e-6)
