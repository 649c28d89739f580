"""Operators of all instruction sets; EMULATE_TILES=1 adds those with tile registers (AMX) where the
processor has none, and takes some minutes more.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.build import BuildError, find_compiler
from text_generation_shard.ops.cpu.operators import Operators

from tests.shard.ops_cpu.tile_emulator import TileEmulator

_CPU_INFO = Path("/proc/cpuinfo")
_HAS_TILES = _CPU_INFO.exists() and "amx_tile" in _CPU_INFO.read_text()


def _instruction_sets() -> tuple[str, ...]:
    try:
        return library.instruction_sets()
    except BuildError:
        return ()


@pytest.fixture(scope="session")
def tile_emulator(tmp_path_factory: pytest.TempPathFactory) -> TileEmulator:
    """What stands in for tile registers (AMX) on a processor without them."""
    if "avx512_bf16" not in _instruction_sets():
        pytest.skip("the kernels with tile registers need AVX-512 with bfloat16, too")
    if _HAS_TILES:
        pytest.skip("this processor has tile registers of its own")
    return TileEmulator(find_compiler(), tmp_path_factory.mktemp("tile_emulator"))


@pytest.fixture(scope="session")
def tile_operators(request: pytest.FixtureRequest) -> Iterator[Operators]:
    """The operators that use tile registers: the processor's, or emulated ones."""
    if "amx" in _instruction_sets():
        yield library.operators_for("amx")
        return
    emulator = request.getfixturevalue("tile_emulator")
    with emulator.emulating():
        yield library._load().Operators("amx")


_EMULATES_TILES = os.environ.get("EMULATE_TILES") == "1"
_SETS = ("avx2", "avx512", "avx512_bf16", *(["amx"] if _HAS_TILES or _EMULATES_TILES else []))


@pytest.fixture(scope="session", params=_SETS)
def operators(request: pytest.FixtureRequest) -> Operators:
    """The operators of every instruction set that this machine has; built if need be."""
    if request.param == "amx":
        operators: Operators = request.getfixturevalue("tile_operators")
        return operators
    if request.param not in _instruction_sets():
        pytest.skip(f"no {request.param} here")
    return library.operators_for(request.param)
