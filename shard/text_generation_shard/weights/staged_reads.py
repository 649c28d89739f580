"""Reading files into the memory of a GPU, through memory that it can copy from by itself.

    file -- threads --> pinned buffer -- copy engine --> its twin on the GPU -- kernels --> weight

Pieces of files are read by several threads, each in one long read, while the GPU copies and stores
the pieces before; a mapped file would be read page by page and copied by one thread, at a few GB/s.
Pieces are stored in the order in which they were asked for, by the thread that asks, on its current
stream: what is launched there after a piece was stored finds it. A buffer is read into again when
the GPU has copied what it held.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from text_generation_shard.cuda_memory import free_pinned_memory
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.stored_tensor import StoredTensor
from text_generation_shard.weights.tensor_part import Decode, RowRun, TensorPart

NUM_THREADS = 8
# As many on the host, pinned, and on the GPU: 256 MiB each.
NUM_BUFFERS = 16
BUFFER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of rows of a tensor, and where they go: [rows, ...]."""

    stored: StoredTensor
    run: RowRun
    decode: Decode | None
    destination: Tensor

    @property
    def offset(self) -> int:
        """Of the file, bytes."""
        assert self.stored.offset is not None
        return self.stored.offset + self.run.offset * self.stored.torch_dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.run.num_values * self.stored.torch_dtype.itemsize

    def store(self, data: Tensor) -> None:
        """data: what was read, uint8 [num_bytes], on the GPU."""
        values = self.run.cut(data.view(self.stored.torch_dtype))
        if self.decode is not None:
            values = self.decode(values, self.run.rows)
        self.destination.copy_(values)


class _Buffer:
    """Pinned memory and its twin on the GPU; `stored` happens when both are free again."""

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self.pinned = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self.bytes = self.pinned.numpy().data
        self.twin = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.stored = torch.cuda.Event()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A piece that is read, or has been, into a buffer's pinned memory; `done` is called when it is
    on its way to where it goes.
    """

    piece: _Piece
    buffer: _Buffer
    future: "Future[None]"
    done: Callable[[], None] | None


class StagedReads:
    """Owns the threads, the buffers and the open files until `close`; used by one thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="read-weights")
        self._files: dict[Path, int] = {}
        self._num_buffers = 0
        self._free: deque[_Buffer] = deque()
        self._readings: deque[_Reading] = deque()

    def takes(self, stored: StoredTensor, part: TensorPart) -> bool:
        """Whether a row fits a buffer."""
        return math.prod(part.row_shape) * stored.torch_dtype.itemsize <= BUFFER_BYTES

    def read_into(
        self,
        destination: Tensor,
        stored: StoredTensor,
        part: TensorPart,
        decode: Decode | None,
        done: Callable[[], None],
    ) -> int:
        """Begin to read a part; it is stored later, at the latest by `drain`, and `done` is called.

        Returns how many bytes are read for it. CheckpointError, here or later, names file and
        tensor where it cannot be read.
        """
        num_bytes, itemsize = 0, stored.torch_dtype.itemsize
        runs = list(part.runs(BUFFER_BYTES // itemsize))
        for run in runs:
            rows = destination[run.first : run.first + len(run.rows)]
            piece = _Piece(stored, run, decode, rows)
            self._begin(piece, done if run is runs[-1] else None)
            num_bytes += piece.num_bytes
        if not runs:
            done()
        return num_bytes

    def drain(self) -> None:
        """Store all pieces: what is launched from here on finds them."""
        while self._readings:
            self._store_oldest()

    def close(self) -> None:
        """Give everything back; pieces that were not stored are dropped."""
        self._threads.shutdown(cancel_futures=True)
        self._readings.clear()
        while self._files:
            os.close(self._files.popitem()[1])
        while self._free:
            self._free.popleft().stored.synchronize()
        if self._num_buffers:
            free_pinned_memory()

    def _begin(self, piece: _Piece, done: Callable[[], None] | None) -> None:
        while self._readings and self._readings[0].future.done():
            self._store_oldest()
        buffer, file = self._free_buffer(), self._file(piece.stored)
        # Before this, the GPU may not have copied what the buffer held.
        buffer.stored.synchronize()
        future = self._threads.submit(_read, file, piece, buffer.bytes[: piece.num_bytes])
        self._readings.append(_Reading(piece, buffer, future, done))

    def _free_buffer(self) -> _Buffer:
        if not self._free and self._num_buffers < NUM_BUFFERS:
            self._num_buffers += 1
            return _Buffer(self._device, BUFFER_BYTES)
        if not self._free:
            self._store_oldest()
        return self._free.popleft()

    def _store_oldest(self) -> None:
        reading = self._readings.popleft()
        reading.future.result()
        buffer, used = reading.buffer, slice(reading.piece.num_bytes)
        buffer.twin[used].copy_(buffer.pinned[used], non_blocking=True)
        reading.piece.store(buffer.twin[used])
        buffer.stored.record()
        self._free.append(buffer)
        if reading.done is not None:
            reading.done()

    def _file(self, stored: StoredTensor) -> int:
        if stored.path not in self._files:
            try:
                self._files[stored.path] = os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise _unreadable(stored, error) from error
        return self._files[stored.path]


def _read(file: int, piece: _Piece, target: memoryview) -> None:
    """All bytes of a piece; on any thread."""
    done, stored = 0, piece.stored
    try:
        while done < piece.num_bytes:
            count = os.preadv(file, [target[done:]], piece.offset + done)
            if count == 0:
                raise CheckpointError(f"{stored.path}: is truncated: it ends in {stored.name}")
            done += count
    except OSError as error:
        raise _unreadable(stored, error) from error


def _unreadable(stored: StoredTensor, error: OSError) -> CheckpointError:
    reason = error.strerror or error
    return CheckpointError(f"{stored.path}: tensor {stored.name} cannot be read: {reason}")
