"""Paged attention against attention written out, for any mixture of decodes and chunks."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from text_generation_shard.ops import reference_attention, reference_plan
from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.paged_attention import paged_attention, plan_attention
from torch import Tensor

BLOCK_SIZE = 4
HEAD_DIM = 8
SOFT_CAP = 1.5
SLOPES = torch.tensor([0.5, 0.1, 0.02, 0.3])
DISTANCE_BIAS = torch.tensor(
    [[0.3, -1.0, 2.0], [0.0, 0.5, -0.7], [1.0, 0.2, 0.1], [-2.0, 1.5, 0.4]]
)
SINKS = torch.tensor([0.7, -2.0, 3.0, 0.0])


def attend(query: Tensor, keys: Tensor, values: Tensor, window: Window, kind: str) -> Tensor:
    """query: [tokens, heads, head_dim], the last of the context's tokens."""
    num_tokens, num_heads, _ = query.shape
    context, num_kv_heads, _ = keys.shape
    output = query.new_empty(num_tokens, num_heads, values.shape[-1])
    for token in range(num_tokens):
        position = context - num_tokens + token
        first = _first(window, position)
        for head in range(num_heads):
            kv = head * num_kv_heads // num_heads
            scores = keys[first : position + 1, kv] @ query[token, head] * HEAD_DIM**-0.5
            if kind == "soft_cap":
                scores = (scores / SOFT_CAP).tanh() * SOFT_CAP
            elif kind == "alibi":
                scores += SLOPES[head] * (torch.arange(first, position + 1) - position)
            elif kind == "distance_bias":
                distances = position - torch.arange(first, position + 1)
                scores += DISTANCE_BIAS[head, distances.clamp(max=2)]
            elif kind == "sinks":
                scores = torch.cat([scores, SINKS[head : head + 1]])
            weights = scores.softmax(0)[: position + 1 - first]
            output[token, head] = weights @ values[first : position + 1, kv]
    return output


def _first(window: Window, position: int) -> int:
    if isinstance(window, AttentionChunk):
        return next(first for first in range(position, -1, -1) if first % window.size == 0)
    return 0 if window is None else max(0, position - window + 1)


@settings(deadline=None, max_examples=80)
@given(
    requests=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 14)), min_size=1, max_size=6),
    heads=st.sampled_from([(2, 1), (4, 2), (3, 3)]),
    latent_dim=st.sampled_from([None, None, 5]),
    window=st.sampled_from([None, 1, 5, AttentionChunk(1), AttentionChunk(6)]),
    kind=st.sampled_from(["plain", "soft_cap", "alibi", "distance_bias", "sinks"]),
    is_sorted=st.booleans(),
    is_native=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_mixture(
    requests: list[tuple[int, int]],
    heads: tuple[int, int],
    latent_dim: int | None,
    window: Window,
    kind: str,
    is_sorted: bool,
    is_native: bool,
    seed: int,
) -> None:
    """requests: tokens computed now, tokens before them; by the C++ operator or the reference."""
    with pytest.MonkeyPatch.context() as patch:
        if not is_native:
            patch.setattr(library, "operators", lambda: None)
        patch.setattr(reference_plan, "MAX_GROUP_TOKENS", 20)
        patch.setattr(reference_attention, "_TILE_ROWS", 5)
        check_mixture(requests, heads, latent_dim, window, kind, is_sorted, seed)


def check_mixture(
    requests: list[tuple[int, int]],
    heads: tuple[int, int],
    latent_dim: int | None,
    window: Window,
    kind: str,
    is_sorted: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_heads, num_kv_heads = heads
    decodes = [before + 1 for length, before in requests if length == 1]
    if is_sorted:
        decodes.sort()
    chunks = [(length, length + before) for length, before in requests if length > 1]
    geometry = [(1, context) for context in decodes] + chunks
    max_blocks = -(-26 // BLOCK_SIZE)
    num_blocks = 1 + len(geometry) * max_blocks
    shape = (num_blocks, BLOCK_SIZE, num_kv_heads, HEAD_DIM)
    keys = torch.randn(shape, generator=generator)
    values = torch.randn(shape, generator=generator)
    order = torch.randperm(num_blocks - 1, generator=generator) + 1
    tables = order.view(len(geometry), max_blocks).int()
    keys[0], values[0] = 0, 0
    if latent_dim is not None:
        values = keys[..., :latent_dim]
    contexts = []
    for row, (_, context) in enumerate(geometry):
        blocks = tables[row].long()
        # Whatever lies behind the context must not matter, not even if it is no number.
        flat_keys, flat_values = keys[blocks].flatten(0, 1), values[blocks].flatten(0, 1)
        flat_keys[context:], flat_values[context:] = float("nan"), float("nan")
        keys[blocks] = flat_keys.view(-1, *shape[1:])
        if latent_dim is None:
            values[blocks] = flat_values.view(-1, *shape[1:])
        contexts.append((flat_keys[:context], flat_values[:context]))
    query = torch.randn(
        sum(length for length, _ in geometry), num_heads, HEAD_DIM, generator=generator
    )
    plan = plan_attention(
        block_tables=tables,
        query_lengths=[length for length, _ in geometry],
        context_lengths=[context for _, context in geometry],
        block_size=BLOCK_SIZE,
        sliding_window=window,
    )
    space = (64, num_kv_heads, HEAD_DIM)
    gathered = torch.zeros(space)
    workspace = Workspace(
        gathered, torch.zeros(space) if latent_dim is None else gathered[..., :latent_dim]
    )
    output = paged_attention(
        query,
        keys,
        values,
        plan,
        workspace,
        scale=HEAD_DIM**-0.5,
        soft_cap=SOFT_CAP if kind == "soft_cap" else None,
        alibi_slopes=SLOPES[:num_heads] if kind == "alibi" else None,
        distance_bias=DISTANCE_BIAS[:num_heads] if kind == "distance_bias" else None,
        sinks=SINKS[:num_heads] if kind == "sinks" else None,
    )
    row = 0
    for (length, _), (own_keys, own_values) in zip(geometry, contexts, strict=True):
        rows = slice(row, row + length)
        row += length
        expected = attend(query[rows], own_keys, own_values, window, kind)
        torch.testing.assert_close(output[rows], expected, atol=1e-5, rtol=1e-5)
