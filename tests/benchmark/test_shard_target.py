"""Against a shard's socket: the fake shard checks every rule of the protocol."""

import pytest
from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.errors import BenchmarkError
from text_generation_benchmark.shard_target import ShardTarget
from text_generation_proto import shard_pb2

from tests.fakes.shard import FakeShard, FakeShards
from tests.fakes.shard_model import FakeFailure, FakeShardConfig


async def measure(shards: FakeShards, *batch_sizes: int, **options):
    """The facts, and a run of each batch size after the other."""
    sizes = tuple(map(str, batch_sizes))
    config = BenchmarkConfig(master_shard_uds_path=shards.uds_paths[0], batch_size=sizes, **options)
    target = ShardTarget(config)
    try:
        facts = await target.describe()
        return facts, [await target.run(size) for size in batch_sizes]
    finally:
        await target.close()


async def test_batches_in_turn() -> None:
    async with FakeShards() as shards:
        facts, times = await measure(shards, 1, 4, 4, 2, sequence_length=33, decode_length=20)
        assert shards.ranks[0].num_steps == 4 * 20, "a prefill, and a step for each further token"
        warmup = shards.ranks[0].warmup
    assert facts["Model"] == "fake" and facts["Device"] == "cpu"
    assert [time.num_decoded_tokens for time in times] == [19, 76, 76, 38]
    assert all(time.prefill_s > 0 and time.decode_s > 0 for time in times)
    assert (warmup.max_slots, warmup.max_total_tokens) == (4, 53)
    assert warmup.max_cache_tokens == 4 * 64, "whole blocks for each of the largest batch"


async def test_a_shard_can_be_measured_again() -> None:
    async with FakeShards() as shards:
        await measure(shards, 2)
        await measure(shards, 3, top_n_tokens=2, temperature=0.5)


async def test_an_encoder_decoder_reads_its_prompt_with_the_encoder() -> None:
    async with FakeShards(FakeShardConfig(decoder_start_token_id=0)) as shards:
        _, times = await measure(shards, 3, sequence_length=20, decode_length=18)
    assert times[0].num_decoded_tokens == 3 * 17


async def test_all_ranks_are_sent_every_step() -> None:
    async with FakeShards(world_size=2) as shards:
        facts, _ = await measure(shards, 2)
        assert [rank.num_steps for rank in shards.ranks] == [8, 8]
    assert facts["Ranks"] == "2"


async def test_nothing_at_the_path(tmp_path) -> None:
    target = ShardTarget(BenchmarkConfig(master_shard_uds_path=f"{tmp_path}/shard-0"))
    with pytest.raises(BenchmarkError, match=r"no socket at .*shard-0"):
        await target.describe()


async def test_nobody_listens(tmp_path) -> None:
    (tmp_path / "shard-0").touch()
    target = ShardTarget(BenchmarkConfig(master_shard_uds_path=f"{tmp_path}/shard-0"))
    with pytest.raises(BenchmarkError, match=r"no shard answers at .*shard-0"):
        await target.describe()


async def test_a_shard_that_serves_is_left_alone(monkeypatch) -> None:
    async def health(self, request, context):
        return shard_pb2.HealthResponse(has_step_stream=True)

    monkeypatch.setattr(FakeShard, "Health", health)
    async with FakeShards() as shards:
        with pytest.raises(BenchmarkError, match="serves a router"):
            await measure(shards, 1)
        assert shards.ranks[0].warmup is None


async def test_lengths_beyond_the_model() -> None:
    async with FakeShards(FakeShardConfig(max_position_embeddings=64)) as shards:
        with pytest.raises(BenchmarkError, match=r"--sequence-length 60 .* 64 positions"):
            await measure(shards, 1, sequence_length=60)


async def test_a_batch_larger_than_the_cache(monkeypatch) -> None:
    whole = FakeShard.Warmup

    async def small(self, request, context):
        response = await whole(self, request, context)
        response.num_blocks = 5
        return response

    monkeypatch.setattr(FakeShard, "Warmup", small)
    async with FakeShards() as shards:
        with pytest.raises(BenchmarkError, match=r"batch size 8 .* needs 256 .* room for 64"):
            await measure(shards, 8)


async def test_a_step_that_fails() -> None:
    config = FakeShardConfig(failures={3: FakeFailure(message="out of memory")})
    async with FakeShards(config) as shards:
        with pytest.raises(BenchmarkError, match="batch size 2: out of memory"):
            await measure(shards, 2)
