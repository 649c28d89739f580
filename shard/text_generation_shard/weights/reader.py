"""Reading a safetensors checkpoint: lazily, each rank only its part, and strictly.

A file is mapped, never read whole. Every tensor that the model asks for must be there with the
shape that the configuration implies; every tensor that is there must have been asked for (or be
known to be harmless); anything else is a CheckpointError that names file and tensor.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from text_generation_shard.errors import CheckpointError
from text_generation_shard.ops.linear import (
    DenseWeight,
    LinearWeight,
    MatrixStack,
    pack,
    packed_stack,
    source_dtype,
)
from text_generation_shard.weights.block_scales import FP8, SCALES_SUFFIX, ScaleBlocks
from text_generation_shard.weights.storage import DENSE, WeightStorage

logger = logging.getLogger(__name__)

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

# Buffers that old checkpoints carry although they follow from the configuration.
_HARMLESS = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
# Bytes of an element, by the data types that can be loaded.
_LOADABLE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PROGRESS_INTERVAL_S = 0.5


@dataclass(slots=True)
class _StoredTensor:
    """One tensor of the checkpoint; `slices` is safetensors' lazy handle."""

    path: Path
    slices: Any
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    was_read: bool = False


class CheckpointReader:
    """The tensors of one checkpoint directory. Use as a context manager: it holds files open."""

    def __init__(self, model_path: Path, *, scale_blocks: ScaleBlocks | None = None) -> None:
        """Open all files and read their headers.

        scale_blocks: of the matrices of 8-bit floats, if the checkpoint may have some. Raises
        CheckpointError if there is no file, or one is missing, damaged, or not what the index says.
        """
        self._model_path = model_path
        self._scale_blocks = scale_blocks
        self._tensors: dict[str, _StoredTensor] = {}
        self._files: list[Any] = []
        # Bytes that this rank keeps of what it read.
        self.kept_bytes = 0
        index = _read_index(model_path)
        for path in _weight_files(model_path, index):
            self._open(path)
        for name, file_name in index.items():
            if name not in self._tensors or self._tensors[name].path.name != file_name:
                raise CheckpointError(
                    f"{model_path / file_name}: tensor {name} is missing, though {INDEX_FILE} "
                    "places it there"
                )
        self._progress = _Progress(sum(tensor.num_bytes for tensor in self._tensors.values()))

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors.clear()
        while self._files:
            self._files.pop().__exit__(None, None, None)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has_prefix(self, prefix: str) -> bool:
        """Whether some tensor's name begins so."""
        return any(name.startswith(prefix) for name in self._tensors)

    def read_into(
        self,
        destination: Tensor,
        name: str,
        *,
        shape: tuple[int, ...],
        dim: int,
        start: int,
        index: int | None = None,
    ) -> None:
        """Copy a part of a tensor, converted to the destination's dtype and device.

        shape: what the whole tensor must have. The part begins at `start` in dimension `dim` and is
        as long as the destination, which has the whole length in all other dimensions. index: the
        part lies at that place of dimension 0, which the destination does not have.
        """
        stored = self._find(name, shape)
        window: list[slice | int] = [slice(None)] * len(shape)
        length = destination.shape[dim if index is None else dim - 1]
        window[dim] = slice(start, start + length)
        if index is not None:
            window[0] = index
        part = self._part(stored, name, tuple(window))
        if stored.dtype == FP8:
            part = self._widen(part, stored, name, first=(start, 0) if dim == 0 else (0, start))
        destination.copy_(part)
        self.kept_bytes += destination.nbytes

    def read_number(self, name: str) -> float:
        """A tensor of one number, with a dimension or none."""
        known = self._tensors.get(name)
        stored = self._find(name, () if known is None or not known.shape else (1,))
        return float(self._part(stored, name, ()))

    def read_bytes(
        self, name: str, *, shape: tuple[int, ...], window: tuple[slice | int, ...]
    ) -> Tensor:
        """A part of a tensor of bytes, uint8."""
        stored = self._find(name, shape, dtypes=("U8",))
        return self._part(stored, name, window)

    def finish(
        self,
        *,
        unused: Collection[str],
        buffers: str | None = None,
        unserved: str | None = None,
    ) -> None:
        """Refuse tensors that nobody asked for.

        unused: those that may stay unread. Patterns of names of others: buffers, which follow from
        the configuration; unserved, of parts that the server does not use, which the log counts.
        """
        unread = [name for name, stored in self._tensors.items() if not stored.was_read]
        left_out = [name for name in unread if unserved is not None and re.search(unserved, name)]
        if left_out:
            fields = {"tensors": len(left_out), "first": left_out[0]}
            logger.info("Left out parts that are not served", extra={"fields": fields})
        leftover = [
            name
            for name in unread
            if name not in unused
            and name not in left_out
            and not _HARMLESS.search(name)
            and not (buffers is not None and re.search(buffers, name))
        ]
        if leftover:
            shown = ", ".join(sorted(leftover)[:4]) + (", ..." if len(leftover) > 4 else "")
            raise CheckpointError(
                f"{self._tensors[leftover[0]].path}: {len(leftover)} tensor(s) that this model "
                f"does not have: {shown}"
            )
        self._progress.finish()

    def _part(self, stored: _StoredTensor, name: str, window: tuple[slice | int, ...]) -> Tensor:
        """A part as it is stored."""
        try:
            part: Tensor = stored.slices[window]
        except SafetensorError as error:
            raise CheckpointError(f"{stored.path}: tensor {name}: {error}") from error
        if not stored.was_read:
            stored.was_read = True
            self._progress.advance(stored.num_bytes)
        return part

    def _widen(
        self, part: Tensor, stored: _StoredTensor, name: str, *, first: tuple[int, int]
    ) -> Tensor:
        """The values of a part of a matrix of 8-bit floats, float32; first: its row and column."""
        assert self._scale_blocks is not None
        name += SCALES_SUFFIX
        scales = self._find(name, self._scale_blocks.shape_of_scales(stored.shape))
        whole = (slice(None), slice(None))
        return self._scale_blocks.widen(part, self._part(scales, name, whole), first=first)

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        self._files.append(file)
        for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118  no mapping
            if name in self._tensors:
                raise CheckpointError(
                    f"{path}: tensor {name} lies in {self._tensors[name].path.name} too"
                )
            slices = file.get_slice(name)  # type: ignore[no-untyped-call]
            shape, dtype = tuple(slices.get_shape()), slices.get_dtype()
            num_bytes = torch.Size(shape).numel() * _LOADABLE.get(dtype, 1)
            self._tensors[name] = _StoredTensor(path, slices, shape, dtype, num_bytes)

    def _find(
        self, name: str, shape: tuple[int, ...], dtypes: Collection[str] = _LOADABLE
    ) -> _StoredTensor:
        stored = self._tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self._model_path}: tensor {name} is missing")
        if stored.shape != shape:
            raise CheckpointError(
                f"{stored.path}: tensor {name} has shape {list(stored.shape)}, "
                f"config.json implies {list(shape)}"
            )
        is_scaled = stored.dtype == FP8 and self._scale_blocks is not None and len(shape) == 2
        if stored.dtype not in dtypes and not is_scaled:
            raise CheckpointError(
                f"{stored.path}: tensor {name} has data type {stored.dtype}, which is not "
                f"supported (supported: {', '.join(dtypes)})"
            )
        return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScope:
    """The tensors under one prefix, as a layer asks for them: one dtype, one device.

    cache_dtype: of cached keys and values; None: as all else.
    """

    reader: CheckpointReader
    prefix: str
    dtype: torch.dtype
    device: torch.device
    storage: WeightStorage = DENSE
    cache_dtype: torch.dtype | None = None

    @property
    def unscaled_cache_dtype(self) -> torch.dtype | None:
        """Of what is cached without scales: cache_dtype, but not 8 bits."""
        is_scaled = self.cache_dtype is not None and self.cache_dtype.itemsize == 1
        return None if is_scaled else self.cache_dtype

    def scope(self, name: str) -> "WeightScope":
        """The tensors of a sub-module."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def body(self, name: str) -> "WeightScope":
        """The tensors of the sub-module that is all but the head; these here, where a checkpoint
        was saved without a head and so without the sub-module's name.
        """
        is_nested = self.reader.has_prefix(f"{self.prefix}{name}.")
        return self.scope(name) if is_nested else self

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.reader

    def empty(self, *shape: int) -> Tensor:
        """Room for a weight."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def matrix(
        self,
        num_outputs: int,
        num_inputs: int,
        fill: Callable[[Tensor], None],
        *,
        is_table: bool = False,
    ) -> LinearWeight:
        """A matrix in the storage that was chosen; `fill` reads into [num_outputs, num_inputs]."""
        packed_format = self.storage.table if is_table else self.storage.body
        if packed_format is None:
            dense = self.empty(num_outputs, num_inputs)
            fill(dense)
            return DenseWeight(dense)
        source = torch.empty(num_outputs, num_inputs, dtype=source_dtype(packed_format))
        fill(source)
        weight = pack(source, packed_format)
        self.reader.kept_bytes += weight.num_bytes - source.nbytes
        return weight

    def matrices(
        self,
        count: int,
        num_outputs: int,
        num_inputs: int,
        fill: Callable[[int, Tensor], None],
        *,
        is_table: bool = False,
    ) -> MatrixStack:
        """Matrices of one shape; `fill` takes an index as well, and is otherwise as in `matrix`."""
        if self.storage.body is not None:
            made = [
                self.matrix(num_outputs, num_inputs, partial(fill, index), is_table=is_table)
                for index in range(count)
            ]
            return packed_stack(made)
        dense = self.empty(count, num_outputs, num_inputs)
        for index, matrix in enumerate(dense):
            fill(index, matrix)
        return MatrixStack([DenseWeight(matrix) for matrix in dense], dense)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A whole tensor."""
        weight = self.empty(*shape)
        self.read_into(weight, name, shape=shape)
        return weight

    def read_into(
        self,
        destination: Tensor,
        name: str,
        *,
        shape: tuple[int, ...],
        dim: int = 0,
        start: int = 0,
        index: int | None = None,
    ) -> None:
        """A part of a tensor, see `CheckpointReader.read_into`."""
        self.reader.read_into(
            destination, self.prefix + name, shape=shape, dim=dim, start=start, index=index
        )

    def read_number(self, name: str) -> float:
        """A tensor of one number."""
        return self.reader.read_number(self.prefix + name)

    def read_bytes(
        self, name: str, *, shape: tuple[int, ...], window: tuple[slice | int, ...]
    ) -> Tensor:
        """A part of a tensor of bytes, see `CheckpointReader.read_bytes`."""
        return self.reader.read_bytes(self.prefix + name, shape=shape, window=window)


class _Progress:
    """Log records from which the launcher draws its progress display."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._loaded_bytes = 0
        self._last_report = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        self._loaded_bytes += num_bytes
        if time.monotonic() - self._last_report >= _PROGRESS_INTERVAL_S:
            self._report("Loading weights", self._loaded_bytes)

    def finish(self) -> None:
        self._report("Loaded weights", self._total_bytes)

    def _report(self, message: str, bytes_done: int) -> None:
        self._last_report = time.monotonic()
        fields = {
            "progress": "weights",
            "bytes_done": bytes_done,
            "bytes_total": self._total_bytes,
        }
        logger.info(message, extra={"fields": fields})


def _read_index(model_path: Path) -> dict[str, str]:
    """Tensor name to file name, from the index of a sharded checkpoint; empty without one."""
    path = model_path / INDEX_FILE
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return {str(name): str(file_name) for name, file_name in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index of safetensors files: {error!r}") from error


def _weight_files(model_path: Path, index: dict[str, str]) -> list[Path]:
    if index:
        names = sorted(set(index.values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{model_path / INDEX_FILE}: names files outside the directory")
        return [model_path / name for name in names]
    single = model_path / SINGLE_FILE
    if single.exists():
        return [single]
    found = sorted(model_path.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"{model_path}: no safetensors weights")
    return found
