"""Scaling rows: embeddings, and logits before a token is chosen."""

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


def scaled(
    x: Tensor, scale: float, *, bias: Tensor | None = None, soft_cap: float | None = None
) -> Tensor:
    """(x + bias) * scale; with soft_cap c that becomes c * tanh(that / c) (Gemma 2).

    x: [rows, size], which may be overwritten; bias: [size]. Returns x's shape and dtype.
    """
    if bias is None and scale == 1 and soft_cap is None:
        return x
    native = native_operators(x)
    if native is not None:
        dense = x.contiguous()
        native.scale(dense, bias, scale, soft_cap or 0.0)
        return dense
    if bias is not None:
        x = x + bias
    if scale != 1:
        x = x * scale
    return x if soft_cap is None else (x / soft_cap).tanh() * soft_cap
