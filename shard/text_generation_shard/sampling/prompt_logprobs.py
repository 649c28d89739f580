"""Log-probabilities of prompt tokens, without the logits of a whole prompt in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

# Logits held at one time: 64 MiB of float32.
_MAX_LOGITS = 1 << 24


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """The log-probability of one given token per row, before any processing.

    logits: float32 [rows, vocab]. token_ids: int64 [rows]. Returns float32 [rows].
    """
    return logits.log_softmax(dim=1).gather(1, token_ids[:, None]).squeeze(1)


def prompt_logprobs(
    hidden: Tensor,
    next_token_ids: Tensor,
    *,
    head: Callable[[Tensor], Tensor],
    vocab_size: int,
) -> Tensor:
    """The log-probability of the token that follows each position.

    hidden: [tokens, hidden], the final hidden states of consecutive positions. next_token_ids:
    int64 [tokens]. head: from hidden states to float32 [tokens, vocab]; called for a bounded number
    of positions at a time, equally often on every rank. Returns float32 [tokens].
    """
    chunk = max(1, _MAX_LOGITS // vocab_size)
    logprobs = torch.empty(len(hidden), device=hidden.device)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        logprobs[rows] = token_logprobs(head(hidden[rows]), next_token_ids[rows])
    return logprobs
