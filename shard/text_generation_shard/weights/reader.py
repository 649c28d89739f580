"""Reading a safetensors checkpoint: lazily, each rank only its part, and strictly.

A file is mapped, never read whole; matrices that go to a GPU are read in long pieces instead
(`staged_reads`). Every tensor that the model asks for must be there with the shape that the
configuration implies; every tensor that is there must have been asked for (or be known to be
harmless); anything else is a CheckpointError that names file and tensor.
"""

import contextlib
import logging
import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from text_generation_shard.errors import CheckpointError
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.weights.block_scales import FP8, SCALES_SUFFIX, ScaleBlocks
from text_generation_shard.weights.loading_progress import LoadingProgress
from text_generation_shard.weights.matrix_parts import MatrixParts
from text_generation_shard.weights.safetensors_header import read_header
from text_generation_shard.weights.staged_reads import StagedReads
from text_generation_shard.weights.stored_tensor import BYTES, LOADABLE, StoredTensor
from text_generation_shard.weights.tensor_part import Decode, TensorPart
from text_generation_shard.weights.weight_files import (
    WeightFiles,
    read_weight_map,
    weight_file_sets,
)

logger = logging.getLogger(__name__)

# Buffers that old checkpoints carry although they follow from the configuration.
_HARMLESS = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_CPU = torch.device("cpu")


class CheckpointReader:
    """The tensors of one checkpoint directory. Use as a context manager: it holds files open."""

    def __init__(
        self,
        model_path: Path,
        *,
        scale_blocks: ScaleBlocks | None = None,
        device: torch.device = _CPU,
    ) -> None:
        """Open all files and read their headers.

        scale_blocks: of the matrices of 8-bit floats, if the checkpoint may have some; device:
        where weights are read to. Raises CheckpointError if there is no file, or one is missing,
        damaged, or not what the index says.
        """
        self._model_path = model_path
        self._scale_blocks = scale_blocks
        self._device = device
        self._staged = StagedReads(device) if device.type == "cuda" else None
        self._may_be_late = False
        self._parts: MatrixParts | None = None
        self._tensors: dict[str, StoredTensor] = {}
        self._files: list[Any] = []
        # Bytes that this rank keeps of what it read.
        self.kept_bytes = 0
        files = _weight_files(model_path)
        for name in files.names:
            self._open(model_path / name)
        if files.index is not None:
            self._check_index(model_path / files.index)
        self._progress = LoadingProgress(sum(tensor.num_bytes for tensor in self._tensors.values()))

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._staged is not None:
            self._staged.close()
        self._tensors.clear()
        while self._files:
            self._files.pop().__exit__(None, None, None)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has_prefix(self, prefix: str) -> bool:
        """Whether some tensor's name begins so."""
        return any(name.startswith(prefix) for name in self._tensors)

    @contextlib.contextmanager
    def late(self) -> Iterator[None]:
        """What is read meanwhile may come as late as in `finish`: nobody looks at it before."""
        self._may_be_late = True
        try:
            yield
        finally:
            self._may_be_late = False

    @contextlib.contextmanager
    def parts(self, num_outputs: int, num_inputs: int) -> Iterator[MatrixParts]:
        """What is read meanwhile, into the plan of a matrix, becomes its parts, without a copy."""
        self._parts = MatrixParts(num_outputs, num_inputs)
        try:
            yield self._parts
        finally:
            self._parts = None

    def read_into(
        self,
        destination: Tensor,
        name: str,
        *,
        shape: tuple[int, ...],
        dim: int,
        start: int,
        step: int = 1,
        index: int | None = None,
    ) -> None:
        """Copy a part of a tensor, converted to the destination's dtype and device.

        shape: what the whole tensor must have. The part has every `step`-th place from `start` on
        of dimension `dim`, as many as the destination, which has the whole length in all other
        dimensions. index: the part lies at that place of dimension 0, which the destination does
        not have.
        """
        stored = self._find(name, shape)
        length = destination.shape[dim if index is None else dim - 1]
        part = TensorPart(shape=shape, dim=dim, start=start, length=length, step=step, index=index)
        decode = self._scaled(stored, part) if stored.dtype == FP8 else None
        self._read(destination, stored, part, decode)

    def read_coded_into(
        self, destination: Tensor, name: str, part: TensorPart, decode: Decode
    ) -> None:
        """Copy what a part of a tensor of bytes stands for."""
        self._read(destination, self._find(name, part.shape, dtypes=(BYTES,)), part, decode)

    def read_number(self, name: str) -> float:
        """A tensor of one number, with a dimension or none."""
        known = self._tensors.get(name)
        stored = self._find(name, () if known is None or not known.shape else (1,))
        return float(self._part(stored, ()))

    def read_bytes(self, name: str, *, shape: tuple[int, ...]) -> Tensor:
        """A whole tensor of bytes, uint8, where weights are read to."""
        stored = self._find(name, shape, dtypes=(BYTES,))
        return to_device(self._part(stored), self._device)

    def finish(
        self,
        *,
        unused: Collection[str],
        buffers: str | None = None,
        unserved: str | None = None,
    ) -> None:
        """Wait for what may be late, and refuse tensors that nobody asked for.

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
        if self._staged is not None:
            self._staged.drain()
        self._progress.finish()

    def _read(
        self, destination: Tensor, stored: StoredTensor, part: TensorPart, decode: Decode | None
    ) -> None:
        self.kept_bytes += destination.nbytes
        if self._staged is not None and self._may_be_late and self._staged.takes(stored, part):
            done = partial(self._progress.advance, _awaited_bytes(stored))
            stored.was_read = True
            self._progress.count(self._staged.read_into(destination, stored, part, decode, done))
            return
        # Not at once, where that would wait for all that a GPU has been given.
        values = to_device(part.thinned(self._part(stored, part.window)), self._device)
        if decode is not None:
            values = decode(values, part.rows)
        if self._parts is not None:
            self._parts.put(destination, values)
        else:
            destination.copy_(values)

    def _part(self, stored: StoredTensor, window: tuple[slice | int, ...] | None = None) -> Tensor:
        """A part, or all, as it is stored, on the CPU."""
        awaited = _awaited_bytes(stored)
        part = stored.read(window)
        self._progress.count(part.nbytes)
        self._progress.advance(awaited)
        return part

    def _scaled(self, stored: StoredTensor, part: TensorPart) -> Decode:
        """From a part of a matrix of 8-bit floats to its values, float32."""
        blocks = self._scale_blocks
        assert blocks is not None
        scales = self._find(stored.name + SCALES_SUFFIX, blocks.shape_of_scales(stored.shape))
        factors = to_device(self._part(scales), self._device)
        first_column = 0 if part.dim == 0 else part.start
        return lambda values, rows: blocks.widen(values, factors, first=(rows.start, first_column))

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        self._files.append(file)
        header = None if self._staged is None else read_header(path)
        for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118  no mapping
            if name in self._tensors:
                raise CheckpointError(
                    f"{path}: tensor {name} lies in {self._tensors[name].path.name} too"
                )
            slices = file.get_slice(name)  # type: ignore[no-untyped-call]
            shape, dtype = tuple(slices.get_shape()), slices.get_dtype()
            begin = None
            if header is not None:
                begin = header.data_offset + header.tensors[name].begin
            self._tensors[name] = StoredTensor(path, name, slices, shape, dtype, begin)

    def _check_index(self, path: Path) -> None:
        for name, file_name in read_weight_map(path).items():
            if name not in self._tensors or self._tensors[name].path.name != file_name:
                raise CheckpointError(
                    f"{self._model_path / file_name}: tensor {name} is missing, though "
                    f"{path.name} places it there"
                )

    def _find(
        self, name: str, shape: tuple[int, ...], dtypes: Collection[str] = LOADABLE
    ) -> StoredTensor:
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


def _awaited_bytes(stored: StoredTensor) -> int:
    """Of a tensor of which nothing was read yet."""
    return 0 if stored.was_read else stored.num_bytes


def _weight_files(model_path: Path) -> WeightFiles:
    names = [path.name for path in model_path.glob("*.safetensors*")]
    sets = weight_file_sets(names, lambda index: read_weight_map(model_path / index))
    if not sets:
        raise CheckpointError(f"{model_path}: no safetensors weights")
    return sets[0]
