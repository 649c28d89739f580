"""Tile registers (AMX) on a machine without them: see `tile_emulator.cpp`."""

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from text_generation_shard.ops.cpu.build import SOURCES
from torch import Tensor

_HERE = Path(__file__).parent
_FLAGS = (
    "-std=c++20",
    "-O2",
    "-march=x86-64-v3",
    "-pthread",
    "-fPIC",
    "-shared",
    f"-I{SOURCES}",
    "-DCPU_OPERATORS_ISA=probes",
    "-mamx-tile",
    "-mamx-int8",
    "-mamx-bf16",
)


class TileEmulator:
    """Executes what the processor does not know, while `emulating`, for all threads."""

    def __init__(self, compiler: str, directory: Path) -> None:
        library = directory / "tile_emulator.so"
        sources = (
            _HERE / "tile_emulator.cpp",
            _HERE / "tile_probes.cpp",
            SOURCES / "processor.cpp",
        )
        subprocess.run([compiler, *_FLAGS, *sources, "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.take_fault.restype = ctypes.c_char_p
        self._library.count_executed.restype = ctypes.c_int64
        self._depth = 0
        self._library.processor_offers_tiles.restype = ctypes.c_bool
        self._library.processor_offers_tiles.argtypes = [ctypes.c_uint32, ctypes.c_uint64]

    @contextmanager
    def emulating(self) -> Iterator[None]:
        """Raises AssertionError at the end where a processor would have refused something, or a
        thread has left its tiles configured. May be nested.
        """
        if self._depth == 0:
            self._library.start_emulation()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._library.end_emulation()
        assert self.take_fault() is None
        assert self._library.count_configured_threads() == 0

    def take_fault(self) -> str | None:
        """What a processor would have refused first, since the last call."""
        fault: bytes | None = self._library.take_fault()
        return None if fault is None else fault.decode()

    @property
    def num_executed(self) -> int:
        """Instructions, by all threads."""
        count: int = self._library.count_executed()
        return count

    def probe(self, name: str) -> None:
        """Call one of the uses in `tile_probes.cpp`."""
        getattr(self._library, name)()

    def multiply(self, name: str, c: Tensor, a: Tensor, b: Tensor) -> None:
        """c += a b, of whole registers: see `tile_probes.cpp`."""
        pointers = (ctypes.c_void_p(each.data_ptr()) for each in (c, a, b))
        getattr(self._library, name)(*pointers, len(c))

    def offers_tiles(self, features: int, kept: int) -> bool:
        """See `processor.h`."""
        offered: bool = self._library.processor_offers_tiles(features, kept)
        return offered
