"""Packed weights lie in huge pages, where the kernel has them; what nobody holds goes back."""

import gc
import mmap
from pathlib import Path

import pytest
import torch
from text_generation_shard.ops.cpu.operators import Operators

MIB = 1 << 20


def _in_huge_pages() -> int:
    """Bytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")) * 1024


def _resident() -> int:
    """Bytes of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def _gets_huge_pages() -> bool:
    """Whether the kernel gives such pages here, now."""
    num_bytes = 16 * MIB
    before = _in_huge_pages()
    with mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.write(b"\1" * num_bytes)
        return _in_huge_pages() - before >= num_bytes - 2 * MIB


def _free_used_memory() -> None:
    """It lies at hand in the C library's heap then, in small pages. Only the first large piece goes
    back to the system.
    """
    for _ in range(2):
        piece = bytearray(b"\1" * (30 * MIB))
        del piece


def test_weights_lie_in_huge_pages(operators: Operators) -> None:
    source = torch.ones(2048, 1536)
    if not _gets_huge_pages():
        pytest.skip("no huge pages here")
    _free_used_memory()
    before = _in_huge_pages()
    matrices = [operators.pack(source, "int8") for _ in range(6)]
    packed = sum(matrix.num_bytes for matrix in matrices)
    assert _in_huge_pages() - before >= packed // 2


def test_small_matrices_share_pages(operators: Operators) -> None:
    source = torch.ones(256, 256)
    before = _resident()
    matrices = [operators.pack(source, "float32") for _ in range(200)]
    packed = sum(matrix.num_bytes for matrix in matrices)
    assert packed == 50 * MIB
    assert _resident() - before < packed + 6 * MIB
    # As long as somebody holds one of them, it stays what it is.
    del matrices[:-1]
    gc.collect()
    assert matrices[0].rows(torch.arange(256)).equal(source)
    del matrices
    gc.collect()
    assert _resident() - before < 6 * MIB


def test_matrices_of_all_sizes_lie_apart(operators: Operators) -> None:
    """One after the other in a mapping, and some that are larger than what is left of it."""
    sizes = [(3, 5), (4096, 1024), (1, 1), (9000, 1024), (17, 33), (20000, 1024), (16, 64)]
    sources = [torch.randn(size) for size in sizes]
    matrices = [operators.pack(source, "float32") for source in sources]
    for matrix, source in zip(matrices, sources, strict=True):
        assert matrix.rows(torch.arange(len(source))).equal(source)
