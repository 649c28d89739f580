"""The most likely tokens of a row, as details of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely tokens of each row, packed one row after the other, best first.

    Row i has the next counts[i] entries. counts: int64 [rows]. token_ids: int64 [entries].
    logprobs: float32 [entries].
    """

    counts: Tensor
    token_ids: Tensor
    logprobs: Tensor

    def of_rows(self, index: Tensor, num_rows: int) -> "TopTokens":
        """The same, where these rows are those of the index, int64 ascending, among num_rows."""
        counts = self.counts.new_zeros(num_rows).index_copy_(0, index, self.counts)
        return TopTokens(counts=counts, token_ids=self.token_ids, logprobs=self.logprobs)


def most_likely(logprobs: Tensor, top_n: Sequence[int]) -> TopTokens:
    """The top_n[i] most likely tokens of each row i, and all that equal the last of them.

    Equal ones are ordered by token id; tokens that were removed (-inf) are left out. How many there
    are depends on the values, so on a GPU this waits for them.
    logprobs: float32 [rows, vocab].
    """
    asking = [row for row, wanted in enumerate(top_n) if wanted > 0]
    wanted = [min(top_n[row], logprobs.shape[1]) for row in asking]
    device = logprobs.device
    index = torch.tensor(asking, device=device)
    asked = logprobs if len(asking) == len(logprobs) else logprobs[index]
    best = asked.topk(max(wanted), dim=1).values
    last = best.gather(1, torch.tensor(wanted, device=device)[:, None] - 1)
    row, token_ids = ((asked >= last) & (asked > float("-inf"))).nonzero(as_tuple=True)
    values = asked[row, token_ids]
    # Entries come by row and token id; two stable sorts order them by row, then best first.
    by_value = values.argsort(descending=True, stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    counts = torch.zeros(len(logprobs), dtype=torch.int64, device=device)
    counts[index] = row.bincount(minlength=len(asking))
    return TopTokens(counts=counts, token_ids=token_ids[order], logprobs=values[order])
