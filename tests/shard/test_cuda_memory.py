"""How much of a GPU's memory is taken, with an allocator that is made up."""

from dataclasses import dataclass

import pytest
import torch
from text_generation_shard.cuda_memory import PeakReserved, available_bytes

GPU = torch.device("cuda")
TOTAL = 1000


@dataclass
class FakeAllocator:
    """Holds what is in use and what is kept for later; others use some of the memory, too."""

    used: int = 0
    kept: int = 0
    others: int = 100
    peak: int = 0

    def reserved(self, _device: object = None) -> int:
        return self.used + self.kept

    def use(self, num_bytes: int) -> None:
        self.kept = max(0, self.kept - num_bytes)
        self.used += num_bytes
        self.peak = max(self.peak, self.reserved())

    def free(self, num_bytes: int) -> None:
        self.used -= num_bytes
        self.kept += num_bytes

    def empty_cache(self) -> None:
        self.kept = 0

    def forget_peak(self, _device: object = None) -> None:
        self.peak = self.reserved()


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> FakeAllocator:
    fake = FakeAllocator()
    replaced = {
        "empty_cache": fake.empty_cache,
        "mem_get_info": lambda _: (TOTAL - fake.others - fake.reserved(), TOTAL),
        "memory_reserved": fake.reserved,
        "max_memory_reserved": lambda _: fake.peak,
        "reset_peak_memory_stats": fake.forget_peak,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_something_is_left_for_what_is_not_counted(allocator: FakeAllocator) -> None:
    assert available_bytes(GPU, 1.0) == 1000 - 100 - 40
    allocator.use(200)
    assert available_bytes(GPU, 1.0) == 1000 - 100 - 40 - 200
    assert available_bytes(GPU, 0.5) == 500 - 20 - 100 - 200


def test_an_engine_before_this_one_takes_nothing(allocator: FakeAllocator) -> None:
    """Its cache is kept by the allocator, and was its peak."""
    allocator.use(700)
    allocator.free(700)
    assert available_bytes(GPU, 1.0) == 860
    allocator.use(100)
    allocator.free(30)
    peak = PeakReserved(GPU)
    allocator.use(50)
    allocator.free(50)
    allocator.use(40)
    assert peak.growth() == 50
