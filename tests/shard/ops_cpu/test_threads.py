"""How many threads compute, and what is built for them."""

from collections.abc import Iterator

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.threads import use_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_gpu_needs_no_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """To build them would hold up the first start on a machine."""

    def refuse() -> None:
        raise AssertionError("the C++ operators are built for a GPU")

    monkeypatch.setattr(library, "operators", refuse)
    use_threads(2, torch.device("cuda"))
    assert torch.get_num_threads() == 2


def test_torch_has_the_threads_without_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "operators", lambda: None)
    use_threads(2, torch.device("cpu"))
    assert torch.get_num_threads() == 2
