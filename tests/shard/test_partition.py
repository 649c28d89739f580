"""Which rank has which heads."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from text_generation_shard.errors import CapacityError
from text_generation_shard.layers.partition import HeadPartition, VocabularyPart, even_range


@given(
    kv_heads=st.integers(1, 12),
    group=st.integers(1, 8),
    world_size=st.integers(1, 24),
)
def test_every_query_head_meets_its_kv_head(kv_heads: int, group: int, world_size: int) -> None:
    heads = kv_heads * group
    if heads % world_size:
        with pytest.raises(CapacityError, match="--num-shard"):
            HeadPartition.of_rank(0, world_size, total_num_heads=heads, total_num_kv_heads=kv_heads)
        return
    seen = []
    for rank in range(world_size):
        part = HeadPartition.of_rank(
            rank, world_size, total_num_heads=heads, total_num_kv_heads=kv_heads
        )
        assert part.num_kv_heads * part.group_size == part.num_heads
        for local in range(part.num_heads):
            head = part.first_head + local
            seen.append(head)
            assert part.kv_heads[local // part.group_size] == head // group
        if kv_heads % world_size == 0:
            assert part.num_kv_heads == kv_heads // world_size
        elif world_size % kv_heads == 0:
            assert part.num_kv_heads == 1
    assert seen == list(range(heads))


@given(total=st.integers(0, 100), world_size=st.integers(1, 9))
def test_even_ranges_are_complete_and_even(total: int, world_size: int) -> None:
    ranges = [even_range(total, rank, world_size) for rank in range(world_size)]
    assert [index for part in ranges for index in part] == list(range(total))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_parts_of_a_vocabulary() -> None:
    """All of one size, of which the last ones hold what is left, or nothing."""
    parts = [VocabularyPart.of_rank(rank, 4, 10) for rank in range(4)]
    assert [(part.start, part.size, part.num_tokens) for part in parts] == [
        (0, 4, 4),
        (4, 4, 4),
        (8, 4, 2),
        (12, 4, 0),
    ]
    values = torch.arange(10.0)
    assert parts[2].cut(values, -1).tolist() == [8, 9, -1, -1]
    assert parts[3].cut(values[None], -1).tolist() == [[-1] * 4]
    alone = VocabularyPart.of_rank(0, 1, 10)
    assert (alone.size, alone.num_tokens) == (10, 10)
