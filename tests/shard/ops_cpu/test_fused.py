"""Operators that do several things in one call, against the ones that do one."""

import pytest
import torch
from text_generation_shard.ops.cpu.library import Operators, PackedMatrix
from torch import Tensor

EPS = 1e-5
FORMATS = ("float32", "bfloat16", "int8", "int4")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pack(operators: Operators, outputs: int, inputs: int, name: str) -> PackedMatrix:
    weight = torch.randn(outputs, inputs)
    return operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 7, 20])
@pytest.mark.parametrize("has_bias", [True, False])
def test_add_gated_mlp(operators: Operators, name: str, rows: int, has_bias: bool) -> None:
    hidden, intermediate = 75, 130
    stream, norm = torch.randn(rows, hidden), torch.randn(hidden)
    gate_up = pack(operators, 2 * intermediate, hidden, name)
    down = pack(operators, hidden, intermediate, name)
    biases = [torch.randn(2 * intermediate), torch.randn(hidden)] if has_bias else [None, None]
    before = stream.clone()
    actual = operators.add_gated_mlp(stream, norm, EPS, gate_up, biases[0], down, biases[1])
    assert torch.equal(stream, before)
    normed = operators.rms_norm(stream, None, norm, EPS)
    gated = operators.silu_mul(gate_up.multiply(normed, biases[0]))
    assert torch.equal(actual, down.multiply(gated, biases[1], stream))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
def test_project_and_store(
    operators: Operators, name: str, rows: int, cache_dtype: torch.dtype
) -> None:
    hidden, num_heads, num_kv_heads, head_dim = 75, 6, 2, 20
    stream, norm = torch.randn(rows, hidden), torch.randn(hidden)
    outputs = (num_heads + 2 * num_kv_heads) * head_dim
    qkv, bias = pack(operators, outputs, hidden, name), torch.randn(outputs)
    cos, sin = torch.randn(rows, 1, head_dim), torch.randn(rows, 1, head_dim)
    slots = torch.randperm(3 * 16)[:rows]

    def new_cache() -> tuple[Tensor, Tensor]:
        shape = (3, 16, num_kv_heads, head_dim)
        return torch.zeros(shape, dtype=cache_dtype), torch.zeros(shape, dtype=cache_dtype)

    keys, values = new_cache()
    query = operators.project_and_store(stream, norm, EPS, qkv, bias, cos, sin, keys, values, slots)
    expected_keys, expected_values = new_cache()
    projected = qkv.multiply(operators.rms_norm(stream, None, norm, EPS), bias)
    operators.rotate_and_store(projected, cos, sin, expected_keys, expected_values, slots)
    assert torch.equal(query, projected.view(rows, -1, head_dim)[:, :num_heads])
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)


@pytest.mark.parametrize("name", FORMATS)
def test_add_attention(operators: Operators, name: str) -> None:
    hidden, num_heads, num_kv_heads, head_dim, rows = 75, 6, 2, 20, 5
    width = num_heads * head_dim
    stream, norm = torch.randn(rows, hidden), torch.randn(hidden)
    qkv = pack(operators, width + 2 * num_kv_heads * head_dim, hidden, name)
    output, bias = pack(operators, hidden, width, name), torch.randn(hidden)
    cos, sin = torch.randn(rows, 1, head_dim), torch.randn(rows, 1, head_dim)
    # Two decode rows and a chunk of three.
    contexts, first_rows = torch.tensor([5, 16, 20]), torch.tensor([0, 1, 2, 5])
    tables = torch.arange(1, 7, dtype=torch.int32).view(3, 2)
    slots = torch.tensor([16 + 4, 3 * 16 + 15, 6 * 16 + 1, 6 * 16 + 2, 6 * 16 + 3])
    caches = torch.randn(2, 7, 16, num_kv_heads, head_dim)
    others = caches.clone()
    where = (tables, first_rows, contexts, 0, 0, 0.3, 0.0, None, None, None)
    before = stream.clone()
    actual = operators.add_attention(
        stream, norm, EPS, qkv, None, output, bias, cos, sin, *caches, slots, *where
    )
    assert torch.equal(stream, before)
    query = operators.project_and_store(stream, norm, EPS, qkv, None, cos, sin, *others, slots)
    attended = operators.attend(query, *others, *where)
    assert torch.equal(caches, others)
    assert torch.equal(actual, output.multiply(attended.flatten(1), bias, stream))
