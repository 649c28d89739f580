"""What the process gives back."""

import ctypes
from pathlib import Path

import pytest
from text_generation_shard.host import return_free_memory

MIB = 1 << 20


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_freed_memory_between_pieces_in_use_goes_back() -> None:
    pieces = [b"x" * 100_000 for _ in range(1000)]
    kept = pieces[::50]
    del pieces
    before = anonymous_bytes()
    return_free_memory()
    assert before - anonymous_bytes() > 50 * MIB
    assert len(kept) == 20
