"""Blocks that are made ready before a sequence uses them."""

import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.unused_blocks import UnusedBlocks

NUM_BLOCKS, AHEAD = 1000, 100


def make_cache() -> KVCache:
    spec = KVCacheSpec(
        num_layers=3, num_kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu")
    )
    cache = KVCache.allocate(
        spec, num_blocks=NUM_BLOCKS, block_size=4, max_total_tokens=64, num_slots=1
    )
    for layer in cache.layers:
        layer.keys.fill_(1)
        layer.values.fill_(1)
    return cache


def ready(cache: KVCache) -> list[int]:
    """Blocks that were written to in all layers; none was in some layers only."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    zero = [(tensor == 0).all((1, 2, 3)) for tensor in tensors]
    assert all(torch.equal(each, zero[0]) for each in zero)
    return zero[0].nonzero().flatten().tolist()


def make_all_ready(blocks: UnusedBlocks) -> int:
    count = 0
    while blocks.make_ready():
        count += 1
    return count


def test_blocks_that_a_step_may_use_are_left_alone() -> None:
    cache = make_cache()
    blocks = UnusedBlocks(cache, AHEAD)
    blocks.use(pb.StepRequest(new_block_ids=[3, 70]))
    admission = pb.Admission(block_ids=[1, 80], encoder_block_ids=[90, 2])
    blocks.use(pb.StepRequest(admissions=[admission]))
    make_all_ready(blocks)
    first, *_, last = made = ready(cache)
    assert made == list(range(first, last + 1))
    assert first == 91
    assert AHEAD <= len(made) < 2 * AHEAD
    assert make_all_ready(blocks) == 0


def test_a_step_between_two_pieces() -> None:
    """Blocks whose first layers are ready already may be used before the others are."""
    cache = make_cache()
    blocks = UnusedBlocks(cache, AHEAD)
    assert blocks.make_ready()
    blocks.use(pb.StepRequest(new_block_ids=[10]))
    for layer in cache.layers:
        layer.keys[:11] = layer.values[:11] = 2
    make_all_ready(blocks)
    assert ready(cache)[0] == 11
    assert all((layer.keys[:11] == 2).all() for layer in cache.layers)


def test_the_last_block_is_the_last() -> None:
    cache = make_cache()
    blocks = UnusedBlocks(cache, AHEAD)
    blocks.use(pb.StepRequest(new_block_ids=[NUM_BLOCKS - 5]))
    make_all_ready(blocks)
    assert ready(cache) == list(range(NUM_BLOCKS - 4, NUM_BLOCKS))
    blocks.use(pb.StepRequest(new_block_ids=[NUM_BLOCKS - 1]))
    assert not blocks.make_ready()
