"""How the KV cache is sized, and what the machine has for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from text_generation_shard import host
from text_generation_shard.cache_sizing import CacheBudget, CacheSize, size_cache
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError
from text_generation_shard.host import host_share, ranks_on_host
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.ops.triton import library

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import running_shard, warmup_request

SPEC = KVCacheSpec(
    num_layers=2, num_kv_heads=2, head_dim=8, dtype=torch.float32, device=torch.device("cpu")
)
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


def size(
    *,
    room_tokens: int,
    max_total_tokens: int = 64,
    is_total_fixed: bool = True,
    max_cache_tokens: int | None = None,
    max_slots: int = 3,
    num_tables: int = 1,
) -> CacheSize:
    """With memory for so many tokens, the scrap block included."""
    overhead = SPEC.workspace_bytes(max_total_tokens)
    budget = CacheBudget(
        spec=SPEC,
        block_size=16,
        max_slots=max_slots,
        max_total_tokens=max_total_tokens,
        is_total_fixed=is_total_fixed,
        max_cache_tokens=max_cache_tokens,
        available_bytes=room_tokens * TOKEN_BYTES + overhead + 1000,
        num_tables=num_tables,
    )
    return size_cache(budget, activation_bytes=1000, ranks=RankGroup())


def test_never_more_than_running_sequences_and_their_prefixes_need() -> None:
    assert size(room_tokens=10**9) == CacheSize(
        num_blocks=1 + 3 * 4 + 3,
        block_size=16,
        max_total_tokens=64,
        cache_bytes=16 * 16 * TOKEN_BYTES,
    )


def test_kernels_gather_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gigabyte for 128k tokens of eight heads, which no kernel ever touched."""
    monkeypatch.setattr(library, "takes", lambda _: True)
    assert SPEC.workspace_bytes(100_000) == 0
    wide = replace(SPEC, head_dim=320)
    assert wide.workspace_tokens(100_000) == 100_001
    assert replace(wide, latent_dim=256).workspace_bytes(100_000) == 0
    cache = KVCache.allocate(SPEC, num_blocks=2, block_size=16, max_total_tokens=64, num_slots=1)
    assert cache.layers[0].workspace.keys.numel() == 0


def test_two_tables_may_each_end_in_a_block_that_is_all_but_empty() -> None:
    assert size(room_tokens=10**9, num_tables=2, max_slots=1).num_blocks == 1 + (4 + 1) * 5 // 4
    assert size(room_tokens=6 * 16, num_tables=2).max_total_tokens == 64
    with pytest.raises(CapacityError, match="48 tokens does not hold one sequence of 64"):
        size(room_tokens=5 * 16, num_tables=2)


def test_what_fits() -> None:
    assert size(room_tokens=16 * 8 + 15).num_blocks == 8


def test_the_cache_asked_for_wins() -> None:
    assert size(room_tokens=10**6, max_cache_tokens=100).num_blocks == 1 + 6
    assert size(room_tokens=10**6, max_cache_tokens=16_000).num_blocks == 1 + 1000


def test_longest_sequence_shrinks_to_the_cache_unless_asked_for() -> None:
    assert size(room_tokens=16 * 3, is_total_fixed=False).max_total_tokens == 32
    with pytest.raises(CapacityError, match="--max-total-tokens"):
        size(room_tokens=16 * 3)


def test_too_little_names_the_flags() -> None:
    with pytest.raises(CapacityError, match=r"--max-batch-total-tokens \(4096\)"):
        size(room_tokens=100, max_cache_tokens=4096)
    with pytest.raises(CapacityError, match="--max-batch-prefill-tokens"):
        size(room_tokens=0, is_total_fixed=False)
    with pytest.raises(CapacityError, match="--max-batch-total-tokens"):
        size(room_tokens=10**6, max_cache_tokens=32)


def test_warmup_refuses_more_than_the_positions(checkpoint: Checkpoint) -> None:
    request = warmup_request(max_total_tokens=513)
    with (
        pytest.raises(CapacityError, match=r"--max-total-tokens \(513\).*\(512\)"),
        running_shard(checkpoint.path, warmup=request),
    ):
        pass


def test_warmup_reports_what_it_measured(checkpoint: Checkpoint) -> None:
    with running_shard(checkpoint.path) as shard:
        response = shard.warm_up(warmup_request(max_total_tokens=0, max_cache_tokens=2048))
    assert response.num_blocks == 1 + 2048 // 4
    assert response.max_total_tokens == 512
    assert response.cache_bytes == response.num_blocks * 4 * (2 * 2 * 2 * 12 * 4)
    samples = zip(
        response.measured_tokens, response.measured_decodes, response.measured_ms, strict=True
    )
    for tokens, decodes, milliseconds in samples:
        assert 0 <= decodes <= tokens <= 256
        assert milliseconds > 0


def test_share_of_the_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    share = host_share(num_ranks=2, num_threads=None, cgroup_root=tmp_path, meminfo=meminfo)
    assert share.memory_bytes == 2000 * 1024
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    share = host_share(num_ranks=1, num_threads=None, cgroup_root=tmp_path, meminfo=meminfo)
    assert share.memory_bytes == 1_000_000
    assert share.num_threads == 1
    (tmp_path / "memory.max").write_text("max\n")
    share = host_share(num_ranks=1, num_threads=7, cgroup_root=tmp_path, meminfo=meminfo)
    assert share.memory_bytes == 4000 * 1024
    assert share.num_threads == 7


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_all_groups_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """As a service has them, whose groups are not the root, and a container within one."""
    monkeypatch.setattr(host, "physical_cores", lambda _: [(core,) for core in range(16)])
    files = {
        "membership": "0::/server.slice/one.service\n",
        "meminfo": "MemAvailable: 4000 kB\n",
        "server.slice/cpu.max": "350000 100000\n",
        "server.slice/memory.max": "3500000\n",
        "server.slice/memory.current": "500000\n",
        "server.slice/one.service/memory.max": "1500000\n",
        "server.slice/one.service/memory.current": "500000\n",
    }
    if version == 1:
        own = "/server.slice/one.service"
        files = {
            "membership": f"4:cpu,cpuacct:{own}\n3:memory:{own}\n0::/init.scope\n",
            "meminfo": "MemAvailable: 4000 kB\n",
            "cpu/server.slice/cpu.cfs_quota_us": "350000\n",
            "cpu/server.slice/cpu.cfs_period_us": "100000\n",
            "memory/server.slice/memory.limit_in_bytes": "3500000\n",
            "memory/server.slice/memory.usage_in_bytes": "500000\n",
            f"memory{own}/memory.limit_in_bytes": "1500000\n",
            f"memory{own}/memory.usage_in_bytes": "900000\n",
            f"memory{own}/memory.stat": "inactive_file 1\ntotal_inactive_file 400000\n",
        }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    share = host_share(
        num_ranks=1,
        num_threads=None,
        cgroup_root=tmp_path,
        membership=tmp_path / "membership",
        meminfo=tmp_path / "meminfo",
    )
    assert share.num_threads == 3
    assert share.memory_bytes == 1_000_000


def test_ranks_on_this_host() -> None:
    assert ranks_on_host(8, {}) == 8
    assert ranks_on_host(8, {"LOCAL_WORLD_SIZE": "4"}) == 4
