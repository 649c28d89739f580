"""Log-probabilities of prompt tokens, without the logits of a whole prompt in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Logits held at one time: 64 MiB of float32.
_MAX_LOGITS = 1 << 24


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What a model says of given tokens, and what it would rather have said.

    logprobs: float32 [tokens]. top_token_ids: int64 [tokens, top_n], the most likely ones, best
    first. top_logprobs: float32 [tokens, top_n].
    """

    logprobs: Tensor
    top_token_ids: Tensor
    top_logprobs: Tensor


def prompt_logprobs(
    hidden: Tensor,
    next_token_ids: Tensor,
    *,
    head: Callable[[Tensor], Tensor],
    vocab_size: int,
    top_n: int,
) -> PromptScores:
    """The log-probability of the token that follows each position, before any processing.

    hidden: [tokens, hidden], the final hidden states of consecutive positions. next_token_ids:
    int64 [tokens]. head: from hidden states to float32 [tokens, vocab]; called for a bounded number
    of positions at a time, equally often on every rank. top_n: how many candidates are listed.
    """
    chunk = max(1, _MAX_LOGITS // vocab_size)
    num_top = min(top_n, vocab_size)
    scores = PromptScores(
        logprobs=torch.empty(len(hidden), device=hidden.device),
        top_token_ids=torch.empty(len(hidden), num_top, dtype=torch.int64, device=hidden.device),
        top_logprobs=torch.empty(len(hidden), num_top, device=hidden.device),
    )
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        logprobs = head(hidden[rows]).log_softmax(dim=1)
        scores.logprobs[rows] = logprobs.gather(1, next_token_ids[rows, None]).squeeze(1)
        if num_top:
            best = logprobs.topk(num_top, dim=1)
            scores.top_token_ids[rows], scores.top_logprobs[rows] = best.indices, best.values
    return scores
