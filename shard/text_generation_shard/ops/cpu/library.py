"""The library of C++ operators in this process: loaded once, or known not to be there."""

import functools
import importlib.util
import logging
import time
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.build import MODULE_NAME, BuildError, build, library_path
from text_generation_shard.ops.cpu.operators import Operators, PackedMatrix, PackedStack
from text_generation_shard.ops.cpu.recording import Gate, RecordingMemory
from text_generation_shard.ops.cpu.self_check import tiles_agree

logger = logging.getLogger(__name__)


class SharedSums(Protocol):
    """Sums over the processes of a machine, see `csrc/shared_sums.h`; all ranks call the same. A
    RuntimeError says which rank has ended, or did not come.
    """

    def sum(self, values: Tensor) -> None:
        """The sum over ranks, in place; float32, dense. Recorded, as operators are."""

    def gather(self, own: Tensor, gathered: Tensor) -> None:
        """gathered[rank] = own; dense, of the same bytes on all ranks."""


def instruction_sets() -> tuple[str, ...]:
    """Those that both the processor and the library have, best first; loads the library."""
    names = tuple(_load().instruction_sets())
    return tuple(name for name in names if name != "amx" or tiles_agree(_load().Operators))


def operators_for(instruction_set: str) -> Operators:
    """The operators of one of `instruction_sets()`; raises ValueError where it is none of them."""
    found = instruction_sets()
    if instruction_set not in found:
        raise ValueError(f"no operators for {instruction_set} here, only for {', '.join(found)}")
    return _load().Operators(instruction_set)


def stack(matrices: list[PackedMatrix]) -> PackedStack:
    """Matrices of one shape and format, for `Operators.mix_experts`."""
    return _load().MatrixStack(matrices)


def set_num_threads(count: int) -> None:
    """How many threads the operators use from here on; loads the library."""
    _load().set_num_threads(count)


def recording_memory() -> RecordingMemory:
    """Empty; loads the library."""
    return _load().RecordingMemory()


def shared_sums_bytes(world_size: int) -> int:
    """Of the memory of `shared_sums`; loads the library."""
    return _load().SharedSums.num_bytes(world_size)


def shared_sums(memory: Tensor, rank: int, world_size: int, timeout_s: float) -> SharedSums:
    """memory: uint8, which all ranks have mapped, and in the beginning zeros."""
    return _load().SharedSums(memory, rank, world_size, timeout_s)


def gate() -> Gate:
    """Open; loads the library."""
    return _load().Gate()


@functools.cache
def operators() -> Operators | None:
    """The best operators for this processor, or None where the torch reference has to serve.

    The first call loads the library, and builds it if need be; later calls cost nothing. What
    happened is logged once.
    """
    started = time.monotonic()
    try:
        if not library_path().exists():
            logger.info(
                "Building the CPU operators, once for this version (about a minute); "
                "`python -m text_generation_shard.ops.cpu.build` does it ahead"
            )
        supported = instruction_sets()
    except BuildError as error:
        _warn(str(error))
        return None
    if not supported:
        _warn("this processor has no AVX2 with FMA")
        return None
    seconds = round(time.monotonic() - started, 3)
    fields = {"instruction_set": supported[0], "seconds": seconds}
    logger.info("Loaded the CPU operators", extra={"fields": fields})
    return operators_for(supported[0])


def native_operators(x: Tensor) -> Operators | None:
    """The operators that take this tensor, or None where it is the reference's."""
    if x.dtype is not torch.float32 or x.device.type != "cpu":
        return None
    return operators()


def _warn(reason: str) -> None:
    logger.warning(
        "The CPU operators are not available: %s. Serving with torch alone: decoding several "
        "sequences takes two to five times as long, weights are kept in float32, and --quantize "
        "int8 and int4 are refused",
        reason,
    )


@functools.cache
def _load() -> "_Library":
    path: Path = build()
    loader = ExtensionFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error
    library: _Library = module
    return library


class _SharedSumsClass(Protocol):
    def __call__(self, memory: Tensor, rank: int, world_size: int, timeout_s: float) -> SharedSums:
        """See `shared_sums`."""

    def num_bytes(self, world_size: int) -> int:
        """See `shared_sums_bytes`."""


class _Library(Protocol):
    SharedSums: _SharedSumsClass

    def instruction_sets(self) -> list[str]:
        """Supported instruction sets, best first."""

    def set_num_threads(self, count: int) -> None:
        """Of the pool that all operators share."""

    def MatrixStack(self, matrices: list[PackedMatrix]) -> PackedStack:  # noqa: N802
        """Of one shape and format."""

    def Operators(self, instruction_set: str) -> Operators:  # noqa: N802  a class in C++
        """The operators of one instruction set."""

    def RecordingMemory(self) -> RecordingMemory:  # noqa: N802
        """Empty."""

    def Gate(self) -> Gate:  # noqa: N802
        """Open."""
