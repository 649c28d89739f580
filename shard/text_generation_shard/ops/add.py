"""Adding rows to the stream where no product does it."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


def add_rows(x: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """x + table[ids]. x: [rows, size], contiguous, which may be overwritten; table: [any, size];
    ids: int64 [rows]. Returns x's shape.
    """
    native = native_operators(x)
    if native is not None:
        native.add(x, table, ids, 1.0)
        return x
    return x + F.embedding(ids, table)


def add_scaled(stream: Tensor, update: Tensor, scale: float) -> Tensor:
    """stream + scale * update, [rows, size] each, contiguous; the stream may be overwritten."""
    native = native_operators(stream)
    if native is not None:
        native.add(stream, update, None, scale)
        return stream
    return torch.add(stream, update, alpha=scale)
