"""Both ways to load weights, on the GPU of `virtual_gpu`, where times mean nothing."""

from pathlib import Path

import pytest

from benchmarks.gpu_loading import WAYS, measure_loading
from tests.shard.checkpoints import write_checkpoint
from tests.shard.virtual_gpu import virtual_gpu


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, tie_word_embeddings=True)
    with virtual_gpu(monkeypatch) as gpu:
        rows = list(measure_loading("step-1b", tmp_path))
        assert gpu.pinned_bytes == 0
    assert [row.name for row in rows] == list(WAYS)
    assert all(row.value and row.unit == "GB/s" for row in rows)
