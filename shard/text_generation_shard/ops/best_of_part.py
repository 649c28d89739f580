"""The choice of one rank among its part of the vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.triton import library
from text_generation_shard.sampling import philox


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBest:
    """What is known of each row's part.

    token_ids: int64 [rows], of the whole vocabulary; the lowest of equal ones. scores: float32
    [rows], theirs. values: float32 [rows], the same with noise, if the row draws. log_sums: float32
    [rows], the logarithm of the sum of exp(score) over the part.
    """

    token_ids: Tensor
    scores: Tensor
    values: Tensor
    log_sums: Tensor


def best_of_part(
    scores: Tensor, draws: Tensor, seeds: Tensor, positions: Tensor, *, first_id: int
) -> PartBest:
    """The greatest score of each row, or the greatest with Gumbel noise (`sampling.philox`).

    scores: float32 [rows, part], of the tokens from first_id on, a multiple of 4; -inf for what is
    none. draws: bool [rows]. seeds, positions: int64 [rows].
    """
    if library.takes(scores):
        return _by_kernels(scores, draws, seeds, positions, first_id)
    native = native_operators(scores)
    if native is None:
        return _by_torch(scores, draws, seeds, positions, first_id)
    off, none = torch.ones(len(scores)), torch.zeros(len(scores), dtype=torch.int64)
    token_ids, logprobs, values, failed = native.sample(
        scores, off, none, off, torch.zeros_like(off), draws, seeds, positions, first_id
    )
    token_ids[failed] = 0
    own = scores.gather(1, token_ids[:, None]).squeeze(1)
    best = PartBest(
        token_ids=token_ids + first_id, scores=own, values=values, log_sums=own - logprobs
    )
    if failed:
        index = torch.tensor(failed)
        rest = _by_torch(scores[index], draws[index], seeds[index], positions[index], first_id)
        for name in PartBest.__slots__:
            getattr(best, name)[index] = getattr(rest, name)
    return best


def _by_torch(
    scores: Tensor, draws: Tensor, seeds: Tensor, positions: Tensor, first_id: int
) -> PartBest:
    noisy, drawing = scores.clone(), draws.nonzero().squeeze(1)
    noisy[drawing] += philox.vocabulary_gumbel(
        seeds[drawing], positions[drawing], vocab_size=scores.shape[1], first_id=first_id
    )
    local_ids = noisy.argmax(dim=1, keepdim=True)
    return PartBest(
        token_ids=local_ids.squeeze(1) + first_id,
        scores=scores.gather(1, local_ids).squeeze(1),
        values=noisy.gather(1, local_ids).squeeze(1),
        log_sums=scores.logsumexp(dim=1),
    )


def _by_kernels(
    scores: Tensor, draws: Tensor, seeds: Tensor, positions: Tensor, first_id: int
) -> PartBest:
    from text_generation_shard.ops.triton import sample as kernels

    local_ids, logprobs, values = kernels.best_of_part(
        scores,
        kernels.Draws(
            temperature=torch.ones_like(scores[:, 0]),
            is_drawn=draws,
            seeds=seeds,
            positions=positions,
            first_id=first_id,
        ),
    )
    own = scores.gather(1, local_ids[:, None]).squeeze(1)
    # A part without any token: its sum is that of nothing.
    log_sums = torch.where(values == float("-inf"), values, own - logprobs)
    return PartBest(token_ids=local_ids + first_id, scores=own, values=values, log_sums=log_sums)
