"""Every operator by its Triton kernel and by its torch reference, on the same inputs.

The kernels run in Triton's interpreter on the CPU (`tests/conftest.py`), or on a GPU if
TRITON_INTERPRET=0.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from text_generation_shard.ops.cpu import library as cpu_library
from text_generation_shard.ops.triton import library

from tests.shard.ops_triton.interpreter import take_scalars_as_indices

pytest.importorskip("triton")
IS_INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


@pytest.fixture(scope="session", autouse=True)
def _scalars_as_indices() -> None:
    take_scalars_as_indices()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cpu" if IS_INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Fresh inputs in every run; the interpreter, as a GPU, says nothing of an overflow."""
    torch.manual_seed(torch.seed() % 2**32)
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """by_kernel(operator, ...): what the operator computes by its kernel. Memory that it does not
    write holds NaN (or 7, for integers).
    """

    def call(operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(library, "takes", lambda _: True)
            for name in ("empty", "empty_like"):
                patch.setattr(torch, name, _poisoned(getattr(torch, name)))
            patch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))
            return operator(*args, **options)

    return call


@pytest.fixture
def by_reference(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """by_reference(operator, ...): what it computes by torch's functions."""

    def call(operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(library, "takes", lambda _: False)
            patch.setattr(cpu_library, "operators", lambda: None)
            return operator(*args, **options)

    return call


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args: Any, **options: Any) -> torch.Tensor:
        tensor = make(*args, **options)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 7)

    return poisoned
