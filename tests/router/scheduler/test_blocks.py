"""The block allocator and the prefix cache: nothing leaks, nothing is shared by mistake."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from text_generation_router.scheduler.block_allocator import SCRAP_BLOCK, BlockAllocator
from text_generation_router.scheduler.prefix_cache import PrefixCache


def test_every_block_but_the_scrap_block_is_handed_out_once():
    allocator = BlockAllocator(9)
    blocks = allocator.allocate(3) + allocator.allocate(5)
    assert sorted(blocks) == list(range(1, 9)) and SCRAP_BLOCK not in blocks
    assert allocator.num_free == 0
    with pytest.raises(AssertionError, match="1 blocks wanted, 0 are free"):
        allocator.allocate(1)


def test_a_cache_of_only_the_scrap_block_is_refused():
    with pytest.raises(ValueError, match="num_blocks must be at least 2"):
        BlockAllocator(1)


def test_releasing_too_often_and_freeing_a_used_block_are_mistakes():
    allocator = BlockAllocator(3)
    (block,) = allocator.allocate(1)
    with pytest.raises(AssertionError, match="is in use"):
        allocator.free(block)
    assert allocator.release(block)
    with pytest.raises(AssertionError, match="more often than taken"):
        allocator.release(block)


def test_the_least_recently_used_chain_is_evicted_first_from_its_end():
    cache = PrefixCache(7)
    old, new = cache.allocate(3), cache.allocate(3)
    for table, chain in ((old, "old"), (new, "new")):
        for index, block in enumerate(table):
            assert cache.name(block, f"{chain}{index}".encode())
    cache.release(old)
    cache.release(new)
    assert (cache.num_available, cache.num_idle, cache.num_used) == (6, 6, 0)
    assert set(cache.allocate(2)) == {old[1], old[2]}
    assert cache.find(b"old0") == old[0]
    assert cache.find(b"old1") is None and cache.find(b"old2") is None
    assert cache.find(b"new2") == new[2]


def test_a_hit_keeps_a_block_from_eviction():
    cache = PrefixCache(3)
    (block,) = cache.allocate(1)
    cache.name(block, b"a")
    cache.release([block])
    assert cache.is_idle(block)
    cache.take([block])
    assert not cache.is_idle(block) and cache.num_available == 1
    cache.allocate(1)
    assert cache.find(b"a") == block


def test_a_name_belongs_to_one_block():
    cache = PrefixCache(3)
    first, second = cache.allocate(2)
    assert cache.name(first, b"a")
    assert not cache.name(second, b"a")
    cache.release([second])
    assert cache.num_available == 1 and cache.find(b"a") == first


@pytest.mark.parametrize("is_held", [True, False])
def test_a_forgotten_block_is_found_no_more_and_not_lost(is_held):
    cache = PrefixCache(2)
    (block,) = cache.allocate(1)
    cache.name(block, b"a")
    if not is_held:
        cache.release([block])
    cache.forget(block, b"a")
    cache.forget(block, b"a")
    assert cache.find(b"a") is None
    cache.check_integrity([[block]] if is_held else [])


def test_forgetting_spares_a_block_that_has_another_name_by_now():
    cache = PrefixCache(2)
    cache.name(cache.allocate(1)[0], b"a")
    cache.release([1])
    cache.allocate(1)
    cache.name(1, b"b")
    cache.forget(1, b"a")
    assert cache.find(b"b") == 1


class CacheMachine(RuleBasedStateMachine):
    """Block tables come, share, name and go in any order."""

    @initialize(num_blocks=st.integers(2, 12))
    def start(self, num_blocks):
        self.cache = PrefixCache(num_blocks)
        self.num_blocks = num_blocks
        self.tables: list[list[int]] = []
        # What the test knows: the content of each block, and which are unshared.
        self.contents: dict[int, bytes] = {}
        self.next_content = 0

    @rule(count=st.integers(0, 4))
    def allocate(self, count):
        if count <= self.cache.num_available:
            table = self.cache.allocate(count)
            assert len(set(table)) == count
            held = {block for other in self.tables for block in other}
            assert held.isdisjoint(table), "a block in use was handed out"
            for block in table:
                self.contents.pop(block, None)
            self.tables.append(table)

    @rule(data=st.data(), name=st.integers(0, 6))
    def name(self, data, name):
        blocks = [b for table in self.tables for b in table if b not in self.contents]
        if blocks:
            block = data.draw(st.sampled_from(blocks))
            content = b"%d" % name
            if self.cache.name(block, content):
                self.contents[block] = content

    @rule(names=st.lists(st.integers(0, 6), max_size=3, unique=True))
    def hit(self, names):
        found = [self.cache.find(b"%d" % name) for name in names]
        blocks = [block for block in found if block is not None]
        self.cache.take(blocks)
        self.tables.append(blocks)

    @rule(data=st.data())
    def release(self, data):
        if self.tables:
            index = data.draw(st.integers(0, len(self.tables) - 1))
            self.cache.release(self.tables.pop(index))

    @rule(data=st.data())
    def forget(self, data):
        if self.contents:
            block = data.draw(st.sampled_from(sorted(self.contents)))
            self.cache.forget(block, self.contents.pop(block))

    @invariant()
    def nothing_leaks(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check_integrity(self.tables)
        held = {block for table in self.tables for block in table}
        assert self.cache.num_used == len(held)
        assert self.cache.num_available == self.num_blocks - 1 - len(held)
        for block, content in self.contents.items():
            assert self.cache.find(content) in (block, None)
            if block in held:
                assert self.cache.find(content) == block


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
