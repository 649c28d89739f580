"""Cores are physical ones, and ranks get neighbours."""

import os
import threading
from pathlib import Path

import pytest
from text_generation_shard.cores import physical_cores, pin_this_thread, share_of
from text_generation_shard.host import local_rank


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Two sockets of two cores with two threads each, numbered as Linux does it."""
    for logical in range(8):
        folder = tmp_path / f"cpu{logical}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{logical // 2 % 2}\n")
        (folder / "core_id").write_text(f"{logical % 2}\n")
    return tmp_path


def test_threads_of_one_core_are_one(two_sockets: Path) -> None:
    assert physical_cores(range(8), two_sockets) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert physical_cores({1, 2, 6}, two_sockets) == [(1,), (2, 6)]


def test_a_rank_gets_a_socket(two_sockets: Path) -> None:
    cores = physical_cores(range(8), two_sockets)
    assert share_of(cores, 0, 2) == [(0, 4), (1, 5)]
    assert share_of(cores, 1, 2) == [(2, 6), (3, 7)]
    assert share_of(cores[:1], 0, 2) == []


def test_cores_without_topology_count_one_each(tmp_path: Path) -> None:
    assert physical_cores({3, 1}, tmp_path) == [(1,), (3,)]


def test_local_rank() -> None:
    assert local_rank(5, 4, {}) == 1
    assert local_rank(5, 4, {"LOCAL_RANK": "3"}) == 3


def test_only_the_calling_thread_is_pinned() -> None:
    before = os.sched_getaffinity(0)
    if len(physical_cores()) < 2:
        pytest.skip("a single core")
    shares = []

    def pin(rank: int) -> None:
        pin_this_thread(rank, 2)
        shares.append(os.sched_getaffinity(0))

    for rank in (0, 1):
        thread = threading.Thread(target=pin, args=(rank,))
        thread.start()
        thread.join()
    assert shares[0] | shares[1] == before
    assert not shares[0] & shares[1]
    assert os.sched_getaffinity(0) == before
