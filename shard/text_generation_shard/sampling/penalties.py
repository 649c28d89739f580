"""Changes of scores before the filters: bias, watermark, penalties for repetition.

Histories are exact: whatever lies outside a row's valid range is never looked at.
"""

import torch
from torch import Tensor

from text_generation_shard.sampling.philox import Stream, vocabulary_words

# High word of the watermark's key; the low word is the previous token. The prime is the one that
# the authors' own implementation uses as its hash key.
WATERMARK_KEY = 15485863


def seen_counts(history: Tensor, starts: Tensor, ends: Tensor, *, vocab_size: int) -> Tensor:
    """How often each token occurs in history[row, starts[row]:ends[row]].

    history: int64 [rows, width]; entries outside the range may hold anything. starts, ends: int64
    [rows]. Returns float32 [rows, vocab_size].
    """
    columns = torch.arange(history.shape[1], device=history.device)
    is_valid = (columns >= starts[:, None]) & (columns < ends[:, None])
    # What is not valid is counted for one token more than there are, and cut off.
    token_ids = history.where(is_valid, vocab_size)
    counts = torch.zeros(len(history), vocab_size + 1, device=history.device)
    counts.scatter_add_(1, token_ids, torch.ones_like(token_ids, dtype=counts.dtype))
    return counts[:, :vocab_size]


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive and multiply negative scores of the seen tokens (Keskar et al., 2019).

    scores, seen: float32 [rows, vocab], seen > 0 for seen tokens. penalty: float32 [rows].
    """
    penalty = penalty[:, None]
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen > 0, penalised, scores)


def penalise_frequency(
    scores: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor
) -> Tensor:
    """Subtract `frequency` for every occurrence and `presence` once for tokens that occurred.

    scores, counts: float32 [rows, vocab]. frequency, presence: float32 [rows].
    """
    return scores - counts * frequency[:, None] - (counts > 0) * presence[:, None]


def green_list(previous_token_ids: Tensor, *, vocab_size: int, gamma: float) -> Tensor:
    """The watermark's green list: int(gamma * vocab_size) tokens that only the previous one decides
    (Kirchenbauer et al., "A watermark for large language models", 2023).

    Tokens are ranked by their random word under the key (previous token, WATERMARK_KEY) at position
    0; equal words by token id. previous_token_ids: int64 [rows]. Returns bool [rows, vocab_size].
    """
    size = int(gamma * vocab_size)
    if size == 0:
        return torch.zeros(
            len(previous_token_ids), vocab_size, dtype=torch.bool, device=previous_token_ids.device
        )
    words = vocabulary_words(
        previous_token_ids + (WATERMARK_KEY << 32),
        torch.zeros_like(previous_token_ids),
        vocab_size=vocab_size,
        stream=Stream.WATERMARK,
    )
    ranks = (words << 31) + torch.arange(vocab_size, device=words.device)
    return ranks <= ranks.kthvalue(size, dim=1, keepdim=True).values
