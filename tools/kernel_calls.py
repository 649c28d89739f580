"""Calls that launch every Triton kernel in every variant that models ask for, on meta tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from text_generation_shard.ops.activation_kind import ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import KVScales
from text_generation_shard.ops.linear import MatrixStack
from text_generation_shard.ops.triton import (
    activation,
    experts,
    gemv,
    norm,
    paged_attention,
    rotary_kv,
    sample,
)
from text_generation_shard.ops.triton.geometry import Chunks, DeviceGeometry
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Attention:
    """An attention layer; `decodes` rows of one token, or one chunk of `chunk` tokens."""

    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16
    cache_dtype: torch.dtype | None = None
    window: Window = None
    soft_cap: float | None = None
    has_slopes: bool = False
    # Of a table of biases; 0: there is none.
    num_distances: int = 0
    has_sinks: bool = False
    # Of the keys' first dimensions, which are the values; 0: they lie apart.
    latent: int = 0
    block_size: int = 64
    decodes: int = 0
    chunk: int = 0


ATTENTION = {
    "decode 1": Attention(decodes=1),
    "decode 256": Attention(decodes=256),
    "decode 32, 80 dims": Attention(decodes=32, head_dim=80, heads=(32, 32)),
    "decode 32, window and cap, 256 dims": Attention(
        decodes=32, head_dim=256, heads=(8, 4), window=4096, soft_cap=50.0
    ),
    "decode 32, slopes": Attention(decodes=32, heads=(32, 32), has_slopes=True),
    "decode 32, distances": Attention(decodes=32, heads=(64, 64), num_distances=129),
    "prefill, distances": Attention(chunk=2048, heads=(64, 64), head_dim=64, num_distances=129),
    "decode 32, float32": Attention(decodes=32, dtype=torch.float32),
    "decode 32, block 16": Attention(decodes=32, block_size=16, heads=(64, 8), head_dim=64),
    "decode 32, sinks and window": Attention(
        decodes=32, heads=(64, 8), head_dim=64, window=128, has_sinks=True
    ),
    "decode 32, chunks": Attention(decodes=32, heads=(40, 8), window=AttentionChunk(8192)),
    "decode 1, 8 bits": Attention(decodes=1, cache_dtype=torch.float8_e4m3fn),
    "decode 256, 8 bits": Attention(decodes=256, cache_dtype=torch.float8_e4m3fn),
    "decode 32, 8 bits, wide exponent": Attention(decodes=32, cache_dtype=torch.float8_e5m2),
    "prefill, 8 bits": Attention(chunk=2048, cache_dtype=torch.float8_e4m3fn),
    "prefill, sinks and window": Attention(
        chunk=2048, heads=(64, 8), head_dim=64, window=128, has_sinks=True
    ),
    "prefill, chunks": Attention(chunk=2048, heads=(40, 8), window=AttentionChunk(8192)),
    "decode 1, latent": Attention(decodes=1, heads=(128, 1), head_dim=576, latent=512),
    "decode 256, latent": Attention(decodes=256, heads=(16, 1), head_dim=576, latent=512),
    "prefill, latent": Attention(chunk=2048, heads=(128, 1), head_dim=576, latent=512),
    "prefill, latent, float32": Attention(
        chunk=2048, heads=(128, 1), head_dim=576, latent=512, dtype=torch.float32
    ),
    "prefill": Attention(chunk=2048),
    "prefill, 64 dims": Attention(chunk=2048, head_dim=64),
    "prefill, window and cap, 256 dims": Attention(
        chunk=2048, head_dim=256, heads=(8, 4), window=4096, soft_cap=50.0
    ),
    "prefill, slopes": Attention(chunk=2048, heads=(32, 32), has_slopes=True),
    "prefill, 80 dims": Attention(chunk=2048, head_dim=80, heads=(32, 32)),
    "prefill, float32": Attention(chunk=2048, dtype=torch.float32),
}


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The experts of a layer, for `tokens` tokens; the default is Mixtral's."""

    tokens: int
    num_experts: int = 8
    choices: int = 2
    hidden: int = 4096
    size: int = 14336
    activation: GatedActivation = "silu"
    is_biased: bool = False
    has_addend: bool = False
    weighs_inputs: bool = False
    dtype: torch.dtype = torch.bfloat16


_GPT_OSS = ClampedSwiGLU(limit=7.0, alpha=1.702)
MIXTURES = {
    "experts, 1 token": Mixture(tokens=1),
    "experts, 256 tokens": Mixture(tokens=256),
    "experts, 2048 tokens": Mixture(tokens=2048),
    "experts, 2048 tokens, float32": Mixture(tokens=2048, dtype=torch.float32),
    "experts, 1 token, float32": Mixture(tokens=1, dtype=torch.float32),
    "small experts, 32 tokens": Mixture(
        tokens=32, num_experts=128, choices=8, hidden=2048, size=768, has_addend=True
    ),
    "biased experts, 32 tokens": Mixture(
        tokens=32,
        num_experts=32,
        choices=4,
        hidden=2880,
        size=2880,
        activation=_GPT_OSS,
        is_biased=True,
    ),
    "weighed inputs, 2048 tokens": Mixture(
        tokens=2048,
        num_experts=16,
        choices=1,
        hidden=5120,
        size=8192,
        weighs_inputs=True,
        has_addend=True,
    ),
}


def kernel_calls() -> dict[str, Callable[[], Any]]:
    """The calls by name."""
    calls: dict[str, Callable[[], Any]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for size in (4096, 16384):
            x, update, weight = _meta(8, size, dtype=dtype), _meta(8, size, dtype=dtype), None
            weight = _meta(size, dtype=dtype)
            calls |= {
                f"rms_norm {size} {name}": _call(norm.rms_norm, x, weight, 1e-5),
                f"add_rms_norm {size} {name}": _call(
                    norm.add_rms_norm, x, update, weight, 1e-5, 1.0
                ),
                f"layer_norm {size} {name}": _call(norm.layer_norm, x, weight, weight, 1e-5),
            }
        for kind in ("silu", "gelu", "gelu_tanh", "relu"):
            gate_up = _meta(8, 2 * 14336, dtype=dtype)
            calls[f"{kind} {name}"] = _call(activation.gated_activation, gate_up, kind)
        for heads, dim, is_normed in ((32, 128, False), (32, 128, True), (16, 80, False)):
            calls[f"rotary {dim} normed={is_normed} {name}"] = _rotary(heads, dim, dtype, is_normed)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        name = f"rotary 128, cache of {str(dtype).removeprefix('torch.')}"
        calls[name] = _rotary(32, 128, torch.bfloat16, False, dtype)
    calls |= {name: _attention(layer) for name, layer in ATTENTION.items()}
    calls |= {name: _mixture(layer) for name, layer in MIXTURES.items()}
    for outputs, inputs in ((6144, 4096), (4096, 14336), (1024, 4096), (128256, 4096)):
        x, matrix = _meta(1, inputs), _meta(outputs, inputs)
        calls[f"gemv {outputs} x {inputs}"] = _call(gemv.gemv, x, matrix, None, None)
    calls["sample"] = _sample(256, is_filtered=False, is_penalised=False)
    calls["sample, filters"] = _sample(256, is_filtered=True, is_penalised=False)
    calls["sample, all"] = _sample(256, is_filtered=True, is_penalised=True)
    return calls


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: function(*args, **options)


def _rotary(
    heads: int,
    dim: int,
    dtype: torch.dtype,
    is_normed: bool,
    cache_dtype: torch.dtype | None = None,
) -> Callable[[], Any]:
    cache = _meta(1000, 64, 8, dim, dtype=cache_dtype or dtype)
    angles = _meta(8, 1, dim, dtype=dtype)
    weight = _meta(dim, dtype=dtype)
    return _call(
        rotary_kv.rotate_and_write,
        _meta(8, heads + 16, dim, dtype=dtype),
        angles,
        angles,
        cache,
        cache,
        _meta(8, dtype=torch.int64),
        interleaved=False,
        norm_weights=(weight, weight) if is_normed else None,
        eps=1e-6,
        scales=KVScales(0.5, 0.25),
    )


def _attention(layer: Attention) -> Callable[[], Any]:
    num_heads, num_kv_heads = layer.heads
    rows = layer.decodes + layer.chunk
    tables = _meta(max(1, layer.decodes), 128, dtype=torch.int32)
    contexts = _meta(max(1, layer.decodes), dtype=torch.int32)
    chunks = None
    if layer.chunk:
        chunks = Chunks(1, layer.chunk, _meta(2, dtype=torch.int32), contexts, tables)
    shape = (1000, layer.block_size, num_kv_heads, layer.head_dim)
    cache = _meta(*shape, dtype=layer.cache_dtype or layer.dtype)
    return _call(
        paged_attention.paged_attention,
        _meta(rows, num_heads, layer.head_dim, dtype=layer.dtype),
        cache,
        cache[..., : layer.latent or layer.head_dim],
        DeviceGeometry(tables, contexts, layer.decodes, chunks),
        Workspace(cache, cache),
        flash=None,
        window=layer.window,
        scale=0.1,
        soft_cap=layer.soft_cap,
        alibi_slopes=_meta(num_heads, dtype=torch.float32) if layer.has_slopes else None,
        distance_bias=(
            _meta(num_heads, layer.num_distances, dtype=torch.float32)
            if layer.num_distances
            else None
        ),
        sinks=_meta(num_heads, dtype=torch.float32) if layer.has_sinks else None,
    )


def _mixture(layer: Mixture) -> Callable[[], Any]:
    count, hidden, size, dtype = layer.num_experts, layer.hidden, layer.size, layer.dtype
    x = _meta(layer.tokens, hidden, dtype=dtype)
    chosen = (layer.tokens, layer.choices)
    return _call(
        experts.mix_experts,
        x,
        Routing(_meta(*chosen, dtype=torch.int64), _meta(*chosen, dtype=dtype)),
        Experts(
            gate_up=MatrixStack([], _meta(count, 2 * size, hidden, dtype=dtype)),
            down=MatrixStack([], _meta(count, hidden, size, dtype=dtype)),
            activation=layer.activation,
            gate_up_bias=_meta(count, 2 * size, dtype=dtype) if layer.is_biased else None,
            down_bias=_meta(count, hidden, dtype=dtype) if layer.is_biased else None,
        ),
        x if layer.has_addend else None,
        weighs_inputs=layer.weighs_inputs,
    )


def _sample(rows: int, *, is_filtered: bool, is_penalised: bool) -> Callable[[], Any]:
    """A step's sampling over 128k tokens."""
    wide, whole = _meta(rows, dtype=torch.float32), _meta(rows, dtype=torch.int64)
    draws = sample.Draws(
        temperature=wide, is_drawn=_meta(rows, dtype=torch.bool), seeds=whole, positions=whole
    )
    filters, penalties, mask = None, None, None
    if is_filtered:
        filters = sample.Filters(top_k=whole, top_p=wide, typical_p=wide, min_p=wide)
    if is_penalised:
        history = _meta(rows, 8192, dtype=torch.int32)
        penalties = sample.Penalties(
            repetition=wide,
            frequency=wide,
            presence=wide,
            history=history,
            history_rows=whole,
            output_starts=whole,
            lengths=whole,
        )
        allowed = _meta(rows, 128256 // 32, dtype=torch.int32)
        mask = sample.TokenMask(allowed=allowed, index=_meta(rows, dtype=torch.int32))
    logits = _meta(rows, 128256, dtype=torch.float32)
    return _call(sample.sample, logits, draws, filters=filters, penalties=penalties, mask=mask)
