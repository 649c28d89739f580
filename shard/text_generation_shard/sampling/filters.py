"""Filters: top-k, top-p, typical-p and min-p remove tokens by setting their score to -inf.

Every filter is a threshold, so what it keeps does not depend on how a sort orders equal scores:
tokens as good as the last one kept are kept too. Each row is filtered by its own scores alone.
"""

from dataclasses import dataclass

from torch import Tensor

REMOVED = float("-inf")
# On CPU a full sort of a row costs several times more than its best entries, which nearly always
# hold the mass that is asked for.
_CPU_PREFIX = 512


def keep_top_k(scores: Tensor, top_k: Tensor, *, max_top_k: int) -> Tensor:
    """Keep the k best tokens of each row.

    scores: float32 [rows, vocab]. top_k: int64 [rows], at least 1. max_top_k: the largest of them.
    """
    vocab_size = scores.shape[1]
    best = scores.topk(min(max_top_k, vocab_size), dim=1).values
    last = top_k.clamp(max=vocab_size)[:, None] - 1
    return scores.masked_fill(scores < best.gather(1, last), REMOVED)


def keep_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches top_p.

    scores: float32 [rows, vocab]. top_p: float32 [rows] in (0, 1).
    """
    cut = _mass_cut(scores, scores.softmax(dim=1), top_p)
    return scores.masked_fill(scores < cut, REMOVED)


def keep_typical_p(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the expected one, until their probability
    reaches typical_p (Meister et al., "Locally typical sampling", 2022).

    scores: float32 [rows, vocab]. typical_p: float32 [rows] in (0, 1).
    """
    logprobs = scores.log_softmax(dim=1)
    probabilities = logprobs.exp()
    # A removed token has the surprise inf and the probability 0; it adds nothing to the entropy.
    terms = (probabilities * logprobs).nan_to_num_(nan=0.0)
    # float64: the order of a sum may vary with the number of rows; rounded to float32, it does not
    # show.
    entropy = -terms.double().sum(dim=1, keepdim=True).float()
    nearness = -(-logprobs - entropy).abs()
    cut = _mass_cut(nearness, probabilities, typical_p)
    return scores.masked_fill(nearness < cut, REMOVED)


def keep_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """Keep tokens at least min_p times as likely as the most likely one that is left.

    scores: float32 [rows, vocab]. min_p: float32 [rows] in (0, 1].
    """
    cut = scores.amax(dim=1, keepdim=True) + min_p.log()[:, None]
    return scores.masked_fill(scores < cut, REMOVED)


def _mass_cut(keys: Tensor, probabilities: Tensor, mass: Tensor) -> Tensor:
    """The key of the token at which the probability, best key first, reaches `mass`.

    keys, probabilities: float32 [rows, vocab]. mass: float32 [rows]. Returns float32 [rows, 1].
    """
    vocab_size = keys.shape[1]
    if keys.device.type != "cpu" or vocab_size <= 4 * _CPU_PREFIX:
        return _cut_within(keys, probabilities, mass, vocab_size).cut
    found = _cut_within(keys, probabilities, mass, _CPU_PREFIX)
    if not bool(found.is_reached.all()):
        rest = (~found.is_reached).nonzero().squeeze(1)
        found.cut[rest] = _cut_within(keys[rest], probabilities[rest], mass[rest], vocab_size).cut
    return found.cut


@dataclass(frozen=True, slots=True)
class _Cut:
    """A cut, float32 [rows, 1], and whether the entries looked at reach the mass, bool [rows]."""

    cut: Tensor
    is_reached: Tensor


def _cut_within(keys: Tensor, probabilities: Tensor, mass: Tensor, num_entries: int) -> _Cut:
    """Search the best `num_entries` entries of each row, else cut at the last one."""
    if num_entries == keys.shape[1]:
        best, order = keys.sort(dim=1, descending=True, stable=True)
    else:
        best, order = keys.topk(num_entries, dim=1)
    # float64, so that thousands of small terms do not round the sum away from its target.
    reached = probabilities.gather(1, order).double().cumsum(dim=1) >= mass.double()[:, None]
    # The first entry at which the mass is reached: as many as there are entries before it.
    last = (~reached).sum(dim=1, keepdim=True).clamp_(max=num_entries - 1)
    return _Cut(best.gather(1, last), reached[:, -1])
