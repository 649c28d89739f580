"""Norms, gated activations, and rotation with the write to the cache."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from text_generation_shard.ops.activation import gated_activation
from text_generation_shard.ops.activation_kind import ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.add_mlp import add_mlp
from text_generation_shard.ops.kv_write import UNSCALED, KVScales
from text_generation_shard.ops.layer_norm import layer_norm
from text_generation_shard.ops.linear import DenseWeight, Projection
from text_generation_shard.ops.norm import NormWeights
from text_generation_shard.ops.rms_norm import add_rms_norm, rms_norm
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.ops.triton import activation
from text_generation_shard.ops.write_heads import PLAIN_HEADS, HeadOptions, write_heads

Call = Callable[..., Any]
SIZES = [(0, 8), (1, 1), (3, 17), (2, 600)]
TOLERANCES = {
    torch.float32: {"atol": 2e-6, "rtol": 2e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
    torch.float16: {"atol": 2e-3, "rtol": 2e-3},
}
GATES = ["silu", "gelu", "gelu_tanh", "relu", ClampedSwiGLU(limit=3.0, alpha=1.702)]
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)


@DTYPES
@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    x = torch.randn(size, device=device).to(dtype)
    for weight in (torch.randn(size[1]).to(x), torch.randn(size[1], device=device)):
        actual = by_kernel(rms_norm, x, weight, 1e-5)
        expected = by_reference(rms_norm, x, weight, 1e-5)
        torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])


@DTYPES
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [1.0, 0.22])
def test_add_rms_norm(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    size: tuple[int, int],
    alpha: float,
    dtype: torch.dtype,
) -> None:
    """The stream afterwards and its norm."""
    x, update = (torch.randn(size, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(size[1]).to(x)
    streams = x.clone(), x.clone()
    actual = by_kernel(add_rms_norm, streams[0], update, weight, 1e-5, alpha=alpha)
    expected = by_reference(add_rms_norm, streams[1], update, weight, 1e-5, alpha=alpha)
    torch.testing.assert_close(streams[0], streams[1], **TOLERANCES[dtype])
    torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])


@DTYPES
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_norm(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    has_bias: bool,
    dtype: torch.dtype,
) -> None:
    for size in SIZES:
        x = (torch.randn(size, device=device) + 3).to(dtype)
        weight, bias = (torch.randn(size[1]).to(x) for _ in range(2))
        arguments = (x, weight, bias if has_bias else None, 1e-5)
        torch.testing.assert_close(
            by_kernel(layer_norm, *arguments),
            by_reference(layer_norm, *arguments),
            **TOLERANCES[dtype],
        )


def test_norm_of_heads_in_place(by_kernel: Call, by_reference: Call, device: torch.device) -> None:
    """Some heads of a wider tensor, as a model with normed queries and keys has them."""
    heads = torch.randn(5, 7, 24, device=device)[:, 2:5]
    weight = torch.randn(24, device=device)
    for norm in (rms_norm, lambda *args: layer_norm(args[0], args[1], None, args[2])):
        actual = by_kernel(norm, heads, weight, 1e-6)
        torch.testing.assert_close(actual, by_reference(norm, heads, weight, 1e-6))


@DTYPES
@pytest.mark.parametrize("activation", GATES, ids=str)
def test_gate(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    activation: GatedActivation,
    dtype: torch.dtype,
) -> None:
    # Of 1 + tanh(-5) or 1 + erf(-5) float32 keeps few digits, which the product makes larger.
    tolerance = {"atol": 2e-5, "rtol": 2e-5} if dtype is torch.float32 else TOLERANCES[dtype]
    for tokens, size in [(0, 8), (3, 17), (2, 1500)]:
        gate_up = (torch.randn(tokens, 2 * size, device=device) * 5).to(dtype)
        torch.testing.assert_close(
            by_kernel(gated_activation, gate_up, activation),
            by_reference(gated_activation, gate_up, activation),
            **tolerance,
        )


@pytest.mark.parametrize("activation", GATES, ids=str)
def test_gate_far_from_zero(
    by_kernel: Call, by_reference: Call, device: torch.device, activation: GatedActivation
) -> None:
    gates = torch.tensor([-2000.0, -90.0, 90.0, 2000.0, float("nan")])
    gate_up = torch.cat((gates, torch.ones(5)))[None].to(device)
    torch.testing.assert_close(
        by_kernel(gated_activation, gate_up, activation),
        by_reference(gated_activation, gate_up, activation),
        equal_nan=True,
    )


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "rotary_dim"),
    [(4, 2, 64, 64), (3, 3, 12, 12), (5, 1, 80, 32), (14, 2, 20, 20)],
)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("norm", ["none", "same", "wide", "8 bits"])
def test_rotation_and_write(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    interleaved: bool,
    norm: str,
) -> None:
    """Queries, and both caches: what no token went to stays as it was."""
    tokens, block_size, num_blocks = 5, 4, 6
    dtype, cache_dtype = torch.float32, torch.float32
    if norm == "wide":
        dtype = cache_dtype = torch.bfloat16
    heads = torch.randn(tokens, num_heads + 2 * num_kv_heads, head_dim, device=device).to(dtype)
    angles = torch.randn(tokens, 1, rotary_dim // 2, device=device)
    cos = torch.cat((angles.cos(), angles.cos()), -1).to(dtype)
    signed_sin = torch.cat((-angles.sin(), angles.sin()), -1).to(dtype)
    if interleaved:
        cos = angles.cos().repeat_interleave(2, -1).to(dtype)
        signed_sin = torch.stack((-angles.sin(), angles.sin()), -1).flatten(-2).to(dtype)
    options, scales = PLAIN_HEADS, UNSCALED
    if norm == "8 bits":
        # Nothing turns, and 8 bits hold every number but the largest: the interpreter rounds
        # upwards to the wrong power of two.
        cache_dtype = random.choice([torch.float8_e4m3fn, torch.float8_e5m2])
        scales = KVScales(2.0**-3, 2.0**2)
        cos, signed_sin = torch.ones_like(cos), torch.zeros_like(signed_sin)
        heads = (heads.sign() * heads.abs().clamp(0.25)).to(torch.float8_e5m2).to(dtype)
        heads[1] = 1e6 * heads[1].sign()
    elif norm != "none":
        wide = torch.float32 if norm == "wide" else dtype
        weights = torch.randn(2, head_dim, device=device).to(wide)
        options = HeadOptions(0.0, *(NormWeights(weight, 1e-6) for weight in weights))
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    before = [torch.randn(shape, device=device).to(cache_dtype) for _ in range(2)]
    places = torch.randperm(num_blocks * block_size, device=device)[:tokens]
    results = []
    for call in (by_kernel, by_reference):
        caches = [cache.clone() for cache in before]
        query = call(
            write_heads,
            heads.clone(),
            Rotation(cos, signed_sin, interleaved),
            *caches,
            places,
            options=options,
            scales=scales,
        )
        results.append((query, *(cache.float() for cache in caches)))
    tolerance = {"atol": 6e-2, "rtol": 2e-2} if norm == "wide" else {"atol": 1e-5, "rtol": 1e-5}
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)


@DTYPES
def test_gated_mlp(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its activation is the kernel's."""
    stream = torch.randn(3, 16, device=device).to(dtype)
    weight = torch.randn(16, device=device).to(dtype)
    gate_up, down = (
        Projection(DenseWeight(torch.randn(size, device=device).to(dtype) / 4), None)
        for size in ((48, 16), (16, 24))
    )
    arguments = (NormWeights(weight, 1e-5), stream, gate_up, "silu", down)
    expected = by_reference(add_mlp, stream.clone(), *arguments, is_gated=True)
    launched: list[str] = []
    kernel = activation.gated_activation

    def launch(x: torch.Tensor, name: str) -> torch.Tensor:
        launched.append(name)
        return kernel(x, name)

    monkeypatch.setattr(activation, "gated_activation", launch)
    actual = by_kernel(add_mlp, stream.clone(), *arguments, is_gated=True)
    assert launched == ["silu"]
    tolerance = {name: 8 * value for name, value in TOLERANCES[dtype].items()}
    torch.testing.assert_close(actual, expected, **tolerance)
