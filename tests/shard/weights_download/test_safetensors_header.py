import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.safetensors_header import read_header

from tests.shard.weights_download.checkpoints import make_tensors


@pytest.fixture
def whole_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(make_tensors(), path, metadata={"format": "pt"})
    return path


def write_raw(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def test_a_whole_file(whole_file):
    header = read_header(whole_file)
    assert header.metadata == {"format": "pt"}
    assert header.tensors["layers.0.weight"].shape == (4, 6)
    assert header.tensors["layers.0.bias"].dtype == "BF16"


def test_scalars_empty_tensors_and_every_torch_dtype(tmp_path):
    dtypes = [
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16,
        torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.int64, torch.uint64,
        torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
    ]  # fmt: skip
    tensors = {str(dtype): torch.zeros(3, 5, dtype=dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "m.safetensors")
    assert read_header(tmp_path / "m.safetensors").tensors.keys() == tensors.keys()


@pytest.mark.parametrize("num_bytes", [0, 5, 8, 20, -1, -60])
def test_a_truncated_file_is_refused_by_name(whole_file, num_bytes):
    data = whole_file.read_bytes()
    whole_file.write_bytes(data[:num_bytes])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is (truncated|not a safe)"):
        read_header(whole_file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>" * 9, "is not a safetensors file"),
        (b"\x00" * 64, "is not a safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 99, "is not a safetensors file"),
    ],
)
def test_other_kinds_of_files_are_refused(tmp_path, content, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{nonsense", b"", "damaged header"),
        (b"{}[]", b"", "damaged header"),
        ({"t": {"dtype": "F32", "shape": [1]}}, b"", "damaged header"),
        ({"t": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}, b"0000", "tensor t .*'F9'"),
        ({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0000", "tensor t has 4"),
        ({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"0" * 8, "begins at byte"),
        ({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0" * 5, "1 bytes after"),
        ({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b"0" * 4, "shape"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, data, message):
    path = tmp_path / "w.safetensors"
    write_raw(path, header, data)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: cannot be read: No such file"):
        read_header(tmp_path / "gone.safetensors")
