"""Operators that do several things in one call, against the ones that do one."""

import copy

import pytest
import torch
from text_generation_shard.ops.activation import native_activation
from text_generation_shard.ops.add_attention import ScoreOptions
from text_generation_shard.ops.cpu.operators import Operators, PackedMatrix
from text_generation_shard.ops.norm import NormWeights
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.ops.write_heads import HeadOptions
from torch import Tensor

HIDDEN = 75
FORMATS = ("float32", "bfloat16", "int8", "int4")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pack(operators: Operators, outputs: int, inputs: int, name: str) -> PackedMatrix:
    weight = torch.randn(outputs, inputs)
    return operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)


@pytest.fixture(params=["rms", "layer", "none"])
def norm(request: pytest.FixtureRequest) -> NormWeights | None:
    if request.param == "none":
        return None
    bias = torch.randn(HIDDEN) if request.param == "layer" else None
    return NormWeights(torch.randn(HIDDEN), 1e-5, bias, is_centred=bias is not None)


def read(operators: Operators, x: Tensor, norm: NormWeights | None) -> Tensor:
    return x if norm is None else operators.norm(x, norm, None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 7, 20])
@pytest.mark.parametrize("is_gated", [True, False])
def test_mlp(
    operators: Operators, name: str, rows: int, is_gated: bool, norm: NormWeights | None
) -> None:
    size, width = 130, 130 * (1 + is_gated)
    x, addend = torch.randn(2, rows, HIDDEN)
    up, down = pack(operators, width, HIDDEN, name), pack(operators, HIDDEN, size, name)
    up_bias = torch.randn(width) if rows > 1 else None
    down_bias = torch.randn(HIDDEN) if rows > 1 else None
    activation = native_activation("gelu_tanh", is_gated=is_gated)
    for added in (x, addend, None):
        before = x.clone(), addend.clone()
        actual = operators.mlp(x, norm, (up, up_bias), activation, (down, down_bias), added)
        assert torch.equal(x, before[0]) and torch.equal(addend, before[1])
        made = operators.activate(up.multiply(read(operators, x, norm), up_bias), activation)
        assert torch.equal(actual, down.multiply(made, down_bias, added))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_attention(
    operators: Operators, name: str, cache_dtype: torch.dtype, norm: NormWeights | None
) -> None:
    num_heads, num_kv_heads, head_dim, rows = 6, 2, 20, 5
    width = num_heads * head_dim
    x, addend = torch.randn(2, rows, HIDDEN)
    outputs = width + 2 * num_kv_heads * head_dim
    qkv = pack(operators, outputs, HIDDEN, name), torch.randn(outputs)
    output = pack(operators, HIDDEN, width, name), torch.randn(HIDDEN)
    cos, sin = torch.randn(2, rows, 1, head_dim)
    head_norm = NormWeights(torch.randn(head_dim), 1e-6)
    heads = (HeadOptions(1.5, head_norm, head_norm), Rotation(cos, sin), torch.rand(rows))
    # Two decode rows and a chunk of three.
    contexts, first_rows = torch.tensor([5, 16, 20]), torch.tensor([0, 1, 2, 5])
    tables = torch.arange(1, 7, dtype=torch.int32).view(3, 2)
    slots = torch.tensor([16 + 4, 3 * 16 + 15, 6 * 16 + 1, 6 * 16 + 2, 6 * 16 + 3])
    plan, scores = (tables, first_rows, contexts, 0, 0), ScoreOptions(0.3, 2.0)
    caches = torch.randn(2, 7, 16, num_kv_heads, head_dim).to(cache_dtype)
    num_scales = 2 if cache_dtype is torch.int8 else 0
    scales = [torch.ones(caches.shape[1:-1]).bfloat16()] * num_scales or [None, None]
    own, others = ((*caches.clone(), *copy.deepcopy(scales)) for _ in range(2))
    for added in (x, addend, None):
        before = x.clone(), addend.clone()
        actual = operators.attention(x, norm, qkv, *heads, own, slots, plan, scores, output, added)
        assert torch.equal(x, before[0]) and torch.equal(addend, before[1])
        query = operators.project_and_store(x, norm, qkv, *heads, others, slots)
        for mine, other in zip(own, others, strict=True):
            assert mine is other is None or torch.equal(mine, other)
        projected = qkv[0].multiply(read(operators, x, norm), qkv[1])
        operators.store_heads(projected, *heads, others, slots)
        assert torch.equal(query, projected.view(rows, -1, head_dim)[:, :num_heads])
        attended = operators.attend(query, others, plan, 0.3, 2.0, None, None, None)
        expected = output[0].multiply(attended.flatten(1), output[1], added)
        assert torch.equal(actual, expected)
