"""Which sums go which way, that ranks agree on it, and what is called for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from text_generation_shard import symmetric_memory
from text_generation_shard.distributed import RankGroup
from text_generation_shard.symmetric_memory import (
    FastSums,
    SharedBuffer,
    SizeTable,
    Way,
    _obstacle,
    fast_sums,
)
from torch import Tensor

from tests.shard.ranks import call_on_ranks

GPU = torch.device("cuda", 0)


@dataclass
class FakeSummer:
    """Sums by doubling; the time is a function of the way and the bytes."""

    time: Callable[[Way, int], float]
    ways: tuple[Way, ...] = tuple(Way)
    calls: list[Way] = field(default_factory=list)

    def __call__(self, way: Way, partial: Tensor) -> Tensor:
        self.calls.append(way)
        return partial.mul_(2)

    def microseconds(self, way: Way, num_bytes: int) -> float:
        return self.time(way, num_bytes)


def typical(way: Way, num_bytes: int) -> float:
    start, slope = {
        Way.NCCL: (29, 1e-5),
        Way.ONE_SHOT: (5, 8e-5),
        Way.TWO_SHOT: (9, 3e-5),
        Way.MULTIMEM: (25, 1e-6),
    }[way]
    return start + slope * num_bytes


def test_the_fastest_way_of_every_size() -> None:
    summer = FakeSummer(typical)
    sums = FastSums.measure(summer, RankGroup(), max_bytes=3_000_000)
    for num_bytes in (16, 4096, 65_536, 1_000_000, 2_999_984, 3_000_000):
        partial = torch.ones(num_bytes // 4)
        total = sums.all_reduce(partial)
        assert total is partial and total[0] == 2
    one, two = Way.ONE_SHOT, Way.TWO_SHOT
    assert summer.calls == [one, one, one, Way.MULTIMEM, Way.MULTIMEM, Way.MULTIMEM]
    sums = FastSums.measure(
        FakeSummer(typical, (Way.NCCL, one, two)), RankGroup(), max_bytes=1 << 20
    )
    assert [sums._table.way(size) for size in (65_536, 262_144, 1 << 20)] == [one, two, Way.NCCL]


@pytest.mark.parametrize(
    "partial",
    [
        torch.ones(8, dtype=torch.float16),
        torch.ones(7, dtype=torch.bfloat16),
        torch.ones(8, 8).T[:, :4],
        torch.ones(100_004),
    ],
    ids=["dtype", "not whole loads", "not contiguous", "larger than the buffer"],
)
def test_what_the_kernels_do_not_take_is_left(partial: Tensor) -> None:
    table = SizeTable((400_000,), (Way.ONE_SHOT,))
    assert FastSums(FakeSummer(typical), table).all_reduce(partial) is None


def measured_ways(ranks: RankGroup) -> list[Way]:
    """Rank 1 finds all slower but NCCL."""
    times = typical if ranks.rank == 0 else lambda way, _: float(way is not Way.NCCL)
    sums = FastSums.measure(FakeSummer(times), ranks, max_bytes=1 << 20)
    return list(sums._table.ways)


def test_all_ranks_go_the_way_of_rank_0() -> None:
    first, second = call_on_ranks(measured_ways, world_size=2)
    assert first == second
    assert Way.ONE_SHOT in first and Way.MULTIMEM in first


def test_only_where_all_gpus_of_a_node_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda _, other: other != 3)
    assert _obstacle(RankGroup(rank=0, world_size=2), GPU) is None
    assert _obstacle(RankGroup(rank=0, world_size=4), GPU) == "GPU 0 cannot read memory of GPU 3"
    assert "3 ranks" in str(_obstacle(RankGroup(rank=0, world_size=3), GPU))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert _obstacle(RankGroup(rank=0, world_size=2), GPU) == "ranks on several nodes"


class AloneOfTwo(RankGroup):
    """The other rank always says the same."""

    def __init__(self) -> None:
        super().__init__(rank=0, world_size=2)

    def minimum(self, value: int) -> int:
        return value

    def broadcast(self, tensor: Tensor) -> Tensor:
        return tensor


def test_without_shared_memory_it_is_said_and_nccl_sums(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object) -> SharedBuffer:
        raise RuntimeError("pidfd_getfd: Operation not permitted")

    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda *_: True)
    monkeypatch.setattr(symmetric_memory, "SharedBuffer", forbidden)
    monkeypatch.setattr(
        torch.distributed, "group", SimpleNamespace(WORLD=SimpleNamespace(group_name="0"))
    )
    assert fast_sums(AloneOfTwo(), GPU, max_bytes=1 << 20) is None
    assert "pidfd_getfd: Operation not permitted" in caplog.text
    assert fast_sums(AloneOfTwo(), torch.device("cpu"), max_bytes=1 << 20) is None


class FakeOperators:
    """Of two ranks with the same numbers, in the buffer that both see."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def one_shot_all_reduce_copy_out(
        self, shared: Tensor, own: Tensor, op: str, name: str, out: Tensor
    ) -> Tensor:
        self.calls.append(f"one-shot {op} {name}")
        return out.copy_(shared.copy_(own) * 2)

    def two_shot_all_reduce_out(self, shared: Tensor, op: str, name: str, out: Tensor) -> Tensor:
        self.calls.append(f"two-shot {op} {name}")
        return out.copy_(shared.mul_(2))

    def multimem_all_reduce_(self, shared: Tensor, op: str, name: str) -> Tensor:
        self.calls.append(f"multimem {op} {name}")
        return shared.mul_(2)


@pytest.mark.parametrize("multicast_ptr", [0, 1])
def test_a_sum_goes_through_the_buffer(multicast_ptr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import _symmetric_memory

    operators = FakeOperators()
    buffers: list[Tensor] = []

    def rendezvous(buffer: Tensor, _: object) -> Any:
        buffers.append(buffer.fill_(255))
        return SimpleNamespace(multicast_ptr=multicast_ptr)

    monkeypatch.setattr(torch.ops, "symm_mem", operators)
    monkeypatch.setattr(_symmetric_memory, "empty", torch.empty)
    monkeypatch.setattr(_symmetric_memory, "rendezvous", rendezvous)
    monkeypatch.setattr(symmetric_memory, "CudaGraphRecorder", lambda _: None)
    group: Any = SimpleNamespace(group_name="world")
    shared = SharedBuffer(256, torch.device("cpu"), group)
    ways = shared.ways[1:]
    assert (Way.MULTIMEM in ways) == bool(multicast_ptr)
    for way in ways:
        partial = torch.arange(24.0).bfloat16().view(3, 8)
        total = shared(way, partial)
        assert total.dtype == torch.bfloat16
        assert total.tolist() == (2 * torch.arange(24.0)).view(3, 8).tolist()
    assert operators.calls == [
        f"{name} sum world" for name in ("one-shot", "two-shot", "multimem")[: len(ways)]
    ]
    assert (buffers[0][48:] == 255).all()


def test_torch_has_these_operators() -> None:
    """Names and arguments, which are there without a GPU, too."""
    operators: Any = torch.ops.symm_mem
    names = "str reduce_op, str group_name"
    arguments = {
        "one_shot_all_reduce_copy_out": "Tensor symm_buffer, Tensor local_input, "
        f"{names}, Tensor(a!) out) -> Tensor(a!)",
        "two_shot_all_reduce_out": f"Tensor(a!) input, {names}, Tensor(b!) output) -> Tensor(b!)",
        "multimem_all_reduce_": f"Tensor(a!) input, {names}) -> Tensor(a!)",
    }
    for name, rest in arguments.items():
        assert str(getattr(operators, name).default._schema) == f"symm_mem::{name}({rest}"
