"""Which rank has which heads."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from text_generation_shard.errors import CapacityError
from text_generation_shard.layers.partition import HeadPartition, even_range


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
