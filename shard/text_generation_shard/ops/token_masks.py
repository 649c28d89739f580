"""Masks of allowed tokens: what a grammar forbids loses its score."""

import numpy as np
import torch
from torch import Tensor

from text_generation_shard.ops.to_device import to_device


def mask_scores(scores: Tensor, rows: tuple[int, ...], allowed: Tensor) -> None:
    """Set the scores of some rows to -inf, in place, but for the tokens that their masks allow.

    scores: float32 [any, vocab]. rows: without duplicates. allowed: int32
    [len(rows), ceil(vocab / 32)] on the same device, bit i % 32 of word i // 32 belongs to token i.
    """
    index = to_device(torch.tensor(rows), scores.device)
    mask = unpacked(allowed, vocab_size=scores.shape[1])
    scores.index_copy_(0, index, scores[index].masked_fill_(~mask, float("-inf")))


def unpacked(allowed: Tensor, *, vocab_size: int) -> Tensor:
    """One bit per token as bool [rows, vocab_size]; allowed as above."""
    if allowed.device.type == "cpu":
        # A hundred times faster than torch's own operators, which widen every bit to a word.
        octets = allowed.numpy().view(np.uint8)
        rows = np.unpackbits(octets, axis=1, count=vocab_size, bitorder="little")
        return torch.from_numpy(rows).view(torch.bool)
    bits = torch.arange(32, dtype=torch.int32, device=allowed.device)
    every = (allowed[:, :, None] >> bits) & 1
    return every.flatten(1)[:, :vocab_size].bool()
