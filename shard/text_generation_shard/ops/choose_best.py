"""The greedy choice."""

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators


def choose_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The id of each row's greatest score, the lowest of equal ones, and its log-softmax.

    scores: float32 [rows, vocab]. Returns int64 [rows] and float32 [rows], NaN where a row's scores
    are not numbers.
    """
    native = native_operators(scores)
    if native is None:
        return _choose_best(scores)
    token_ids, logprobs, failed = native.choose_best(scores)
    for row in failed:
        token_ids[row : row + 1], logprobs[row : row + 1] = _choose_best(scores[row : row + 1])
    return token_ids, logprobs


def _choose_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    token_ids = scores.argmax(dim=1)
    logprobs = scores.log_softmax(dim=1)
    return token_ids, logprobs.gather(1, token_ids[:, None]).squeeze(1)
