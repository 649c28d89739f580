"""Paged attention against the torch reference, which has a test of its own."""

import pytest
import torch
from text_generation_shard.ops.attention_window import AttentionChunk
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.paged_attention import plan_attention
from text_generation_shard.ops.reference_attention import reference_attention
from text_generation_shard.ops.rounded_rows import spread
from torch import Tensor

# Heads, KV heads, head_dim, block size, window, data type of the cache; and value_dim, where values
# are a part of the keys
CASES = [
    (16, 4, 64, 16, None, torch.float32),
    (4, 2, 12, 4, 7, torch.float32),
    (6, 6, 20, 4, None, torch.float32),
    (5, 1, 80, 32, None, torch.float32),
    (14, 2, 128, 16, 100, torch.float32),
    (16, 4, 64, 16, 33, torch.bfloat16),
    (2, 1, 20, 8, None, torch.bfloat16),
    (6, 2, 16, 8, AttentionChunk(20), torch.float32),
    (4, 1, 40, 16, None, torch.float32, 24),
    (37, 1, 72, 16, None, torch.float32, 55),
    (14, 2, 128, 16, 100, torch.bfloat16),
    (6, 6, 80, 4, None, torch.bfloat16),
    (5, 1, 72, 32, AttentionChunk(20), torch.bfloat16, 55),
    (20, 1, 48, 8, 50, torch.bfloat16, 32),
    (16, 4, 64, 16, None, torch.int8),
    (14, 2, 128, 16, 100, torch.int8),
    (3, 3, 256, 16, None, torch.int8),
    (6, 2, 80, 8, 33, torch.int8),
    (5, 1, 20, 4, None, torch.int8),
    (37, 1, 72, 16, AttentionChunk(20), torch.int8),
]
QUERIES = (1, 1, 1, 5, 70, 200)
CONTEXTS = (1, 15, 130, 5, 100, 333)


@pytest.mark.parametrize("kind", ["plain", "soft_cap", "alibi", "distance_bias", "sinks"])
@pytest.mark.parametrize("case", CASES)
def test_decodes_and_chunks(operators: Operators, case: tuple, kind: str) -> None:
    num_heads, num_kv_heads, head_dim, block_size, window, dtype, *latent = case
    torch.manual_seed(0)
    max_blocks = -(-max(CONTEXTS) // block_size)
    num_blocks = 1 + len(CONTEXTS) * max_blocks
    shape = (2, num_blocks, block_size, num_kv_heads, head_dim)
    keys, values = torch.randn(shape).to(dtype)
    key_scales, value_scales = None, None
    if dtype is torch.int8:
        keys, values = torch.randint(-127, 128, shape, dtype=dtype)
        key_scales, value_scales = (
            torch.rand(2, num_blocks, num_kv_heads, block_size).bfloat16() / 64
        )
        key_scales[0], value_scales[0] = 0, 0
    keys[0], values[0] = 0, 0
    for value_dim in latent:
        values = keys[..., :value_dim]
    tables = (torch.randperm(num_blocks - 1) + 1).view(len(CONTEXTS), max_blocks).int()
    if key_scales is not None and value_scales is not None:
        for scales in (key_scales, value_scales):
            forget_what_no_row_sees(scales, tables, block_size)
    tokens = sum(QUERIES)
    qkv = torch.randn(tokens, num_heads + 2 * num_kv_heads, head_dim)
    query = qkv[:, :num_heads]
    plan = plan_attention(
        block_tables=tables,
        query_lengths=QUERIES,
        context_lengths=CONTEXTS,
        block_size=block_size,
        sliding_window=window,
    )
    soft_cap = 2.0 if kind == "soft_cap" else None
    slopes = torch.rand(num_heads) if kind == "alibi" else None
    bias = torch.randn(num_heads, 40) if kind == "distance_bias" else None
    sinks = torch.randn(num_heads) if kind == "sinks" else None
    space = torch.zeros(2, 8192, num_kv_heads, head_dim)
    workspace = Workspace(space[0], space[1, ..., : values.shape[-1]])
    scale = head_dim**-0.5
    # By products of bfloat16 pairs: the scaled queries are rounded, and the weights, each by at
    # most 2^-8 of it; single rows only where query heads share KV heads.
    is_rounded = operators.rounds_to_bfloat16 and dtype is torch.bfloat16
    is_rounded = is_rounded and slopes is None and bias is None
    num_exact = 0 if is_rounded and num_heads > num_kv_heads else QUERIES.count(1)
    num_exact = num_exact if is_rounded else tokens
    scaled = (query if key_scales is None else spread(query)) * scale
    scaled[num_exact:] = scaled[num_exact:].bfloat16().float()

    def reference(values: torch.Tensor) -> torch.Tensor:
        return reference_attention(
            scaled,
            widened(keys, key_scales),
            values,
            plan.reference,
            workspace,
            scale=1.0,
            soft_cap=soft_cap,
            alibi_slopes=slopes,
            distance_bias=bias,
            sinks=sinks,
        )

    expected = reference(widened(values, value_scales))
    actual = operators.attend(
        query,
        (keys, values, key_scales, value_scales),
        plan.native,
        scale,
        soft_cap or 0.0,
        slopes,
        bias,
        sinks,
    )
    # Of values up to 2: beside int8, queries and weights of single rows are rounded to 16 bits.
    tolerance = 1e-4 if dtype is torch.int8 else 2e-5
    bound = tolerance + expected.abs() * 2e-5
    bound[num_exact:] += reference(widened(values, value_scales).abs())[num_exact:] * 2**-8
    assert ((actual - expected).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("group", [1, 4, 7])
def test_a_row_is_the_same_in_any_company(
    operators: Operators, dtype: torch.dtype, group: int
) -> None:
    """Bit for bit, although the heads of few rows are cut into more tasks."""
    torch.manual_seed(0)
    shape = (2, 1 + 40 * 10, 16, 2, 64)
    keys, values = torch.randn(shape).to(dtype)
    scales = (None, None)
    if dtype is torch.int8:
        keys, values = torch.randint(-127, 128, shape, dtype=dtype)
        scales = torch.rand(2, shape[1], 2, 16).bfloat16() / 64
    tables = (torch.randperm(400) + 1).view(40, 10).int()
    contexts = torch.arange(1, 161, 4)
    query = torch.randn(40, 2 * group, 64)

    def attend(rows: list[int]) -> Tensor:
        plan = plan_attention(
            block_tables=tables[rows],
            query_lengths=[1] * len(rows),
            context_lengths=contexts[rows].tolist(),
            block_size=16,
            sliding_window=None,
        )
        cache = (keys, values, *scales)
        return operators.attend(query[rows], cache, plan.native, 0.125, 0.0, None, None, None)

    together = attend(list(range(40)))
    for row in (0, 3, 31, 39):
        assert torch.equal(attend([row])[0], together[row])


def widened(cache: Tensor, scales: Tensor | None) -> Tensor:
    return cache.float() if scales is None else cache.float() * scales.float().mT[..., None]


def forget_what_no_row_sees(scales: Tensor, tables: Tensor, block_size: int) -> None:
    """Whatever a former owner of a block left behind must not matter."""
    is_seen = torch.zeros(len(scales), block_size, dtype=torch.bool)
    is_seen[0] = True
    for blocks, context in zip(tables, CONTEXTS, strict=True):
        positions = torch.arange(context)
        is_seen[blocks[positions // block_size].long(), positions % block_size] = True
    scales.mT[~is_seen] = torch.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("is_key", [False, True], ids=["query", "key"])
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
def test_what_is_no_number_stays_none(
    operators: Operators, dtype: torch.dtype, is_key: bool, soft_cap: float
) -> None:
    """Its score counted as a small one, and the row was computed as if nothing were wrong."""
    keys, values = torch.randn(2, 8, 16, 1, 32).to(dtype)
    scales = torch.ones(2, 8, 1, 16).bfloat16() if dtype is torch.int8 else (None, None)
    query = torch.randn(21, 2, 32)
    if not is_key:
        query[:, 1, 3] = torch.nan
    elif scales[0] is None:
        keys[1, 2, 0, 3] = torch.nan
    else:
        scales[0][1, 0, 2] = torch.nan
    plan = plan_attention(
        block_tables=torch.tensor([[1, 2, 0], [1, 2, 3]]).int(),
        query_lengths=[1, 20],
        context_lengths=[20, 40],
        block_size=16,
        sliding_window=None,
    )
    caches = (keys, values, *scales)
    attended = operators.attend(query, caches, plan.native, 0.2, soft_cap, None, None, None)
    rows = attended.view(21, 2, 32)
    assert rows[:, 1].isnan().all()
    assert rows[:, 0].isnan().all() if is_key else rows[:, 0].isfinite().all()
