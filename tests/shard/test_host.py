"""What the process gives back, and what it keeps."""

import ctypes
import subprocess
import sys
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


# A thread takes and frees what a layer needs, again and again; prints how many pages came anew.
STEPS = """
import resource, threading
from text_generation_shard.host import keep_freed_memory, share_one_heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps():
    for count in range(8):
        if count == 2:
            before = faults()
        large, small = bytearray(b"x") * (40 << 20), bytearray(b"x") * (30 << 20)
        del large, small
    print(faults() - before)

if KEEP:
    share_one_heap()
    keep_freed_memory()
thread = threading.Thread(target=steps)
thread.start()
thread.join()
"""


def new_pages(*, keep: bool) -> int:
    program = STEPS.replace("KEEP", str(keep))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_step_finds_the_memory_that_the_last_one_freed() -> None:
    assert new_pages(keep=False) > 10_000
    assert new_pages(keep=True) < 100
