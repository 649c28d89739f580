"""The header of a safetensors file, and a check that costs one small read.

    file    = header length (u64, little endian), header (JSON), data
    header  = {tensor name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}

The offsets count from the end of the header. Tensors fill the data without gaps, so a truncated
download or a file of another kind is found without reading the data.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_generation_shard.errors import CheckpointError

_LENGTH_BYTES = 8
# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs.github.com/"
_DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4", "F4_E2M1"), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes [begin, end) of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a file says about its tensors; `metadata` is free text; data_offset: where in the file
    the data begins.
    """

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_offset: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read the header and check that the file is as long as it says.

    CheckpointError names the file, and the tensor where one is to blame.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            file.seek(0)
            raw = _raw_header(path, file.read(_LENGTH_BYTES), start, file_bytes)
            header = _parse(path, file.read(raw), _LENGTH_BYTES + raw)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_extent(path, header, file_bytes - header.data_offset)
    return header


def _raw_header(path: Path, length: bytes, start: bytes, file_bytes: int) -> int:
    """The header's length in bytes."""
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the weights (fetch them with `git lfs pull`)"
        )
    if len(length) < _LENGTH_BYTES:
        raise CheckpointError(f"{path}: is not a safetensors file: it has {file_bytes} bytes")
    (header_bytes,) = struct.unpack("<Q", length)
    if header_bytes > _MAX_HEADER_BYTES or start[_LENGTH_BYTES : _LENGTH_BYTES + 1] not in b"{":
        raise CheckpointError(f"{path}: is not a safetensors file: it has no header")
    if header_bytes > file_bytes - _LENGTH_BYTES:
        raise CheckpointError(f"{path}: is truncated: the file ends within the header")
    return int(header_bytes)


def _parse(path: Path, raw: bytes, data_offset: int) -> SafetensorsHeader:
    try:
        fields: dict[str, Any] = json.loads(raw)
        metadata = fields.pop("__metadata__", {})
        tensors = {name: _entry(entry) for name, entry in fields.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: is not a safetensors file: damaged header ({error})"
        ) from error
    for name, entry in tensors.items():
        _check_entry(path, name, entry)
    return SafetensorsHeader(tensors=tensors, metadata=metadata, data_offset=data_offset)


def _entry(fields: Mapping[str, Any]) -> TensorEntry:
    begin, end = fields["data_offsets"]
    shape = tuple(int(size) for size in fields["shape"])
    return TensorEntry(dtype=fields["dtype"], shape=shape, begin=int(begin), end=int(end))


def _check_entry(path: Path, name: str, entry: TensorEntry) -> None:
    bits = _DTYPE_BITS.get(entry.dtype)
    if bits is None:
        raise CheckpointError(f"{path}: tensor {name} has the unknown data type {entry.dtype!r}")
    if any(size < 0 for size in entry.shape):
        raise CheckpointError(f"{path}: tensor {name} has the shape {list(entry.shape)}")
    if math.prod(entry.shape) * bits != (entry.end - entry.begin) * 8:
        raise CheckpointError(
            f"{path}: tensor {name} has {entry.end - entry.begin} bytes, which does not fit "
            f"{entry.dtype} {list(entry.shape)}"
        )


def _check_extent(path: Path, header: SafetensorsHeader, data_bytes: int) -> None:
    """Tensors must follow one another without gaps, up to the end of the file."""
    end = 0
    for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].begin):
        if entry.begin != end:
            raise CheckpointError(
                f"{path}: tensor {name} begins at byte {entry.begin} of the data, not at {end}"
            )
        end = entry.end
    if end > data_bytes:
        raise CheckpointError(
            f"{path}: is truncated: {end} bytes of tensors are announced, {data_bytes} are there"
        )
    if end < data_bytes:
        raise CheckpointError(f"{path}: has {data_bytes - end} bytes after the last tensor")
