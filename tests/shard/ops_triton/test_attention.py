"""Paged attention by the kernels against the reference: decode rows, chunks, and mixtures."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.flash_attention import FlashAttention
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import UNSCALED, KVScales
from text_generation_shard.ops.paged_attention import paged_attention, plan_attention
from text_generation_shard.ops.triton import context_pieces, decode_attention, library
from torch import Tensor
from triton import language as tl

IS_INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """requests: query tokens and context of each; decodes first, ascending by context."""

    requests: tuple[tuple[int, int], ...] = ((1, 1), (1, 70), (3, 3), (9, 75))
    heads: tuple[int, int] = (4, 2)
    head_dim: int = 16
    block_size: int = 8
    window: Window = None
    soft_cap: float | None = None
    has_slopes: bool = False
    # Of a table of biases; 0: there is none.
    num_distances: int = 0
    has_sinks: bool = False
    cache_dtype: torch.dtype | None = None
    kv_scales: KVScales = UNSCALED
    dtype: torch.dtype = torch.float32


CASES = {
    "plain": Case(),
    "window": Case(window=5),
    "window of one": Case(window=1),
    "cap": Case(soft_cap=1.5),
    "cap and window": Case(soft_cap=1.5, window=33),
    "slopes": Case(has_slopes=True),
    "slopes and window": Case(has_slopes=True, window=20),
    "distances": Case(num_distances=9),
    "many distances, odd dim": Case(num_distances=200, head_dim=20, heads=(3, 3)),
    "chunks of 7": Case(window=AttentionChunk(7)),
    "chunk and cap": Case(window=AttentionChunk(64), soft_cap=1.5),
    "chunk that ends": Case(window=AttentionChunk(35)),
    "sinks": Case(has_sinks=True),
    "sinks and window": Case(has_sinks=True, window=5, head_dim=20),
    "sinks, wide group": Case(has_sinks=True, heads=(24, 1), requests=((1, 40), (5, 9))),
    "8 bits": Case(cache_dtype=torch.float8_e4m3fn),
    "8 bits, scaled": Case(cache_dtype=torch.float8_e4m3fn, kv_scales=KVScales(0.37, 2.5)),
    "8 bits, wide exponent": Case(cache_dtype=torch.float8_e5m2, window=20, head_dim=20),
    "8 bits, cap and scale": Case(
        cache_dtype=torch.float8_e4m3fn, kv_scales=KVScales(3.0, 0.5), soft_cap=1.5
    ),
    "8 bits, float16": Case(cache_dtype=torch.float8_e4m3fn, dtype=torch.float16),
    "one kv head": Case(heads=(5, 1)),
    "no group": Case(heads=(3, 3), block_size=5),
    "odd dim": Case(head_dim=20, block_size=3),
    "80 dims": Case(head_dim=80, heads=(2, 1), block_size=16),
    "256 dims": Case(head_dim=256, heads=(2, 1), block_size=64),
    "bfloat16": Case(dtype=torch.bfloat16),
    "float16": Case(dtype=torch.float16, window=40),
    "decodes": Case(requests=((1, 1), (1, 2), (1, 65), (1, 130))),
    "chunks": Case(requests=((40, 40), (2, 50)), heads=(8, 2)),
    "many tiles": Case(requests=((70, 90),), heads=(8, 2), window=30),
    "wide group": Case(requests=((1, 40), (5, 9)), heads=(24, 1)),
}


@dataclass(frozen=True)
class Inputs:
    query: Tensor
    keys: Tensor
    values: Tensor
    tables: Tensor


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """Caches hold NaN wherever no token of these requests lies, but for the scrap block."""
    num_heads, num_kv_heads = case.heads
    max_blocks = max(-(-context // case.block_size) for _, context in case.requests) + 1
    num_blocks = 1 + len(case.requests) * max_blocks
    order = torch.randperm(num_blocks - 1) + 1
    tables = order.view(len(case.requests), max_blocks).int()
    shape = (num_blocks * case.block_size, num_kv_heads, case.head_dim)
    keys, values = (torch.full(shape, float("nan")) for _ in range(2))
    keys[: case.block_size], values[: case.block_size] = 0, 0
    for table, (_, context) in zip(tables, case.requests, strict=True):
        positions = torch.arange(context)
        places = table[positions // case.block_size].long() * case.block_size
        places += positions % case.block_size
        keys[places] = torch.randn(context, num_kv_heads, case.head_dim)
        values[places] = torch.randn(context, num_kv_heads, case.head_dim)
    paged = (num_blocks, case.block_size, num_kv_heads, case.head_dim)
    tokens = sum(length for length, _ in case.requests)
    query = torch.randn(tokens, num_heads, case.head_dim)
    caches = (x.view(paged).to(device, case.cache_dtype or case.dtype) for x in (keys, values))
    return Inputs(query.to(device, case.dtype), *caches, tables.to(device))


def attend(call: Call, case: Case, inputs: Inputs, flash: FlashAttention | None = None) -> Tensor:
    device = inputs.query.device
    plan = plan_attention(
        block_tables=inputs.tables,
        query_lengths=[length for length, _ in case.requests],
        context_lengths=[context for _, context in case.requests],
        block_size=case.block_size,
        sliding_window=case.window,
        flash_attention=flash,
    )
    space = torch.zeros(9000, case.heads[1], case.head_dim, device=device, dtype=case.dtype)
    generator = torch.Generator().manual_seed(3)
    slopes, sinks = torch.rand(2, case.heads[0], generator=generator).to(device)
    table = torch.randn(case.heads[0], case.num_distances, generator=generator).to(device)
    is_latent = inputs.values.shape != inputs.keys.shape
    output: Tensor = call(
        paged_attention,
        inputs.query,
        inputs.keys,
        inputs.values,
        plan,
        # Values are a view of the keys where they are so in the cache.
        Workspace(space, space[..., :20] if is_latent else space.clone()),
        scale=case.head_dim**-0.5,
        soft_cap=case.soft_cap,
        alibi_slopes=slopes if case.has_slopes else None,
        distance_bias=table if case.num_distances else None,
        sinks=sinks if case.has_sinks else None,
        kv_scales=case.kv_scales,
    )
    return output


TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_against_reference(
    by_kernel: Call, by_reference: Call, device: torch.device, case: Case
) -> None:
    if IS_INTERPRETED and case.dtype is torch.bfloat16:
        pytest.skip("the interpreter of Triton 3.6 multiplies the bits of bfloat16 matrices")
    inputs = make_inputs(case, device)
    actual, expected = attend(by_kernel, case, inputs), attend(by_reference, case, inputs)
    tolerance = TOLERANCES[case.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", [None, 300, AttentionChunk(280)], ids=str)
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_splits(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    multiprocessors: int,
    has_sinks: bool,
    window: Window,
) -> None:
    """One program or many for a context, a long one beside short ones, contexts too short for all
    programs, and a row without one.
    """
    monkeypatch.setattr(
        "text_generation_shard.ops.triton.decode_attention.num_multiprocessors",
        lambda _: multiprocessors,
    )
    requests = ((1, 0), (1, 1), (1, 255), (1, 257), (1, 1100))
    if has_sinks or isinstance(window, AttentionChunk):
        requests = requests[1:]
    case = Case(requests=requests, heads=(2, 1), block_size=64, window=window, has_sinks=has_sinks)
    inputs = make_inputs(case, device)
    actual, expected = attend(by_kernel, case, inputs), attend(by_reference, case, inputs)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


def test_strided_query(by_kernel: Call, by_reference: Call, device: torch.device) -> None:
    """The queries as part of a projection's output."""
    case = CASES["plain"]
    inputs = make_inputs(case, device)
    wide = torch.cat((inputs.query, torch.full_like(inputs.query, float("nan"))), dim=1)
    inputs = Inputs(wide[:, : case.heads[0]], inputs.keys, inputs.values, inputs.tables)
    expected = attend(by_reference, case, inputs)
    torch.testing.assert_close(attend(by_kernel, case, inputs), expected, atol=2e-5, rtol=2e-5)


def test_padded_rows(by_kernel: Call, device: torch.device) -> None:
    """Rows that fill up a bucket see the scrap block, or nothing at all."""
    inputs = make_inputs(CASES["plain"], device)
    tables = torch.zeros_like(inputs.tables)
    inputs = Inputs(inputs.query[:4], inputs.keys, inputs.values, tables)
    for context in (1, 0):
        for window in (None, 5, AttentionChunk(7)):
            case = Case(requests=((1, context),) * 4, window=window, has_sinks=context == 1)
            output = attend(by_kernel, case, inputs)
            assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("heads", [3, 16, 40])
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_latent_vectors(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    multiprocessors: int,
    heads: int,
) -> None:
    """Values are a part of the keys: decodes, split or not, and chunks."""
    monkeypatch.setattr(
        "text_generation_shard.ops.triton.latent_attention.num_multiprocessors",
        lambda _: multiprocessors,
    )
    requests = ((1, 1), (1, 300), (1, 570), (3, 3), (9, 75))
    case = Case(requests=requests, heads=(heads, 1), head_dim=28)
    inputs = make_inputs(case, device)
    latent = Inputs(inputs.query, inputs.keys, inputs.keys[..., :20], inputs.tables)
    actual, expected = attend(by_kernel, case, latent), attend(by_reference, case, latent)
    assert actual.shape == (15, heads, 20)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("has_sinks", [False, True])
def test_more_rows_than_one_pass_looks_at(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    has_sinks: bool,
) -> None:
    """Rows, pieces before them and the step's tokens are counted over several passes; a long
    context has more parts than are combined in one.
    """
    contexts = (1, 3, 40, 40, 200, 500)
    if IS_INTERPRETED:
        monkeypatch.setattr(context_pieces, "_MANY_ROWS", tl.constexpr(2))
        monkeypatch.setattr(context_pieces, "_MIN_LENGTH", tl.constexpr(16))
    else:
        contexts = (*contexts[:5], *[200] * 400, 9000)
    monkeypatch.setattr(decode_attention, "pieces_per_row", lambda *_: 8)
    case = Case(
        requests=tuple((1, context) for context in contexts),
        heads=(2, 1),
        block_size=64,
        has_sinks=has_sinks,
    )
    inputs = make_inputs(case, device)
    actual, expected = attend(by_kernel, case, inputs), attend(by_reference, case, inputs)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


def test_pieces_per_row() -> None:
    """As many as fill the device; none where there is nothing to gain."""
    per_row = context_pieces.pieces_per_row
    assert per_row(1, 8, 100_000, 132) == 33
    assert per_row(1, 8, 1000, 132) == 4
    assert per_row(1, 8, 256, 132) == 0
    assert per_row(8, 8, 32_768, 132) == 5
    assert per_row(256, 8, 256, 132) == 0
    # A long context among short ones is worth more than one piece.
    assert per_row(256, 8, 100_000, 132) == per_row(256, 8, 1024, 132) == 1
    assert context_pieces.num_pieces(256, 1) == 512 and context_pieces.num_pieces(256, 0) == 256
    assert library.num_multiprocessors(torch.device("cpu")) == 132
