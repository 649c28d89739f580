"""Norm, gate and rotary embedding against the torch references."""

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.library import Operators
from text_generation_shard.ops.kv_write import write_kv
from text_generation_shard.ops.rms_norm import rms_norm
from text_generation_shard.ops.rotary import apply_rotary
from text_generation_shard.ops.silu_mul import silu_mul

SIZES = [(0, 8), (1, 1), (3, 17), (5, 64), (70, 129), (300, 600)]


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_norm(operators: Operators, size: tuple[int, int]) -> None:
    x, update, weight = torch.randn(size), torch.randn(size), torch.randn(size[1])
    torch.testing.assert_close(
        operators.rms_norm(x, None, weight, 1e-5), rms_norm(x, weight, 1e-5), atol=1e-5, rtol=1e-5
    )
    stream = x.clone()
    actual = operators.rms_norm(stream, update, weight, 1e-5)
    assert torch.equal(stream, x + update)
    expected = rms_norm(x + update, weight, 1e-5)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_gate(operators: Operators, size: tuple[int, int]) -> None:
    gate_up = torch.randn(size[0], 2 * size[1]) * 5
    torch.testing.assert_close(operators.silu_mul(gate_up), silu_mul(gate_up), atol=1e-6, rtol=1e-5)


def test_gate_far_from_zero(operators: Operators) -> None:
    gate_up = torch.tensor([[-200.0, -90.0, 90.0, 200.0, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[0.0, 0.0, 90.0, 200.0, float("nan")]])
    torch.testing.assert_close(operators.silu_mul(gate_up), expected, equal_nan=True)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "rotary_dim"),
    [(4, 2, 64, 64), (3, 3, 12, 12), (5, 1, 80, 32), (4, 2, 20, 20)],
)
def test_rotary_and_cache(
    operators: Operators,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    cache_dtype: torch.dtype,
) -> None:
    tokens, block_size, num_blocks = 23, 4, 9
    qkv = torch.randn(tokens, (num_heads + 2 * num_kv_heads) * head_dim)
    cos = torch.randn(tokens, 1, rotary_dim // 2).repeat(1, 1, 2)
    sin = torch.randn(tokens, 1, rotary_dim // 2)
    signed_sin = torch.cat((-sin, sin), dim=-1)
    slots = torch.randperm(num_blocks * block_size)[:tokens]
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    keys, values = torch.zeros(2, *shape, dtype=cache_dtype)
    expected_keys, expected_values = torch.zeros(2, *shape, dtype=cache_dtype)
    heads = qkv.clone().view(tokens, -1, head_dim)
    turned = apply_rotary(heads[:, :-num_kv_heads], cos, signed_sin)
    write_kv(
        turned[:, num_heads:].to(cache_dtype),
        heads[:, -num_kv_heads:].to(cache_dtype),
        expected_keys,
        expected_values,
        slots,
    )
    operators.rotate_and_store(qkv, cos, signed_sin, keys, values, slots)
    actual = qkv.view(tokens, -1, head_dim)
    torch.testing.assert_close(actual[:, :num_heads], turned[:, :num_heads])
    tolerance = {"atol": 1e-2, "rtol": 1e-2} if cache_dtype is torch.bfloat16 else {}
    torch.testing.assert_close(keys, expected_keys, **tolerance)
    assert torch.equal(values, expected_values)


def test_a_slot_outside_the_cache_is_refused(operators: Operators) -> None:
    cache = torch.zeros(2, 4, 1, 8)
    turn = torch.zeros(1, 1, 8)
    with pytest.raises(RuntimeError, match="slot 8 of 8"):
        operators.rotate_and_store(torch.zeros(1, 24), turn, turn, cache, cache, torch.tensor([8]))
