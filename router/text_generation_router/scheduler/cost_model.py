"""What a step costs: `fixed + per_prefill_token x prefill tokens + per_decode x decodes`, in
milliseconds, fitted to measured steps.

Three sets of normal equations are kept: one of the warmup's samples, which stays, and one each of
decode-only and of mixed steps, which forget old samples of their own kind. So hours of pure
decoding do not wear away what is known about prompts. Coefficients are never negative. A single
slow step (a pause of the machine) counts as at most `OUTLIER` times what was expected of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

# Share of the old that a new sample of the same kind leaves.
_MEMORY = 0.98
# Samples between two fits; the first ones are fitted at once.
_FIT_EVERY = 8
# Longest that a sample may count for, as a multiple of what was predicted.
OUTLIER = 3.0
# Samples of a kind before outliers are told from the truth.
_TRUST_AFTER = 8
# Weight of the previous fit where the samples leave a direction open.
_RIDGE = 1e-4


@dataclass(frozen=True, slots=True)
class CostSample:
    """One measured step."""

    num_prefill_tokens: int
    num_decodes: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Cost:
    """The fitted coefficients, in milliseconds."""

    fixed: float
    per_prefill_token: float
    per_decode: float

    def step_ms(self, num_prefill_tokens: int, num_decodes: int) -> float:
        """Predicted duration of a step."""
        return (
            self.fixed + self.per_prefill_token * num_prefill_tokens + self.per_decode * num_decodes
        )


class _NormalEquations:
    """Sums of a least squares problem in three unknowns; relative errors count, so that a step of
    2 ms and one of 200 ms weigh the same.
    """

    def __init__(self) -> None:
        self.count = 0
        # Upper triangle of X'X by rows, then X'y.
        self.sums = [0.0] * 9

    def add(self, sample: CostSample, memory: float) -> None:
        weight = 1.0 / max(sample.duration_ms, 1e-3) ** 2
        x1, x2, y = sample.num_prefill_tokens, sample.num_decodes, sample.duration_ms
        row = (1.0, x1, x2, x1 * x1, x1 * x2, x2 * x2, y, x1 * y, x2 * y)
        self.sums = [memory * old + weight * new for old, new in zip(self.sums, row, strict=True)]
        self.count += 1


class CostModel:
    """Owns the samples; predicts step times."""

    def __init__(self, warmup: Sequence[CostSample] = ()) -> None:
        self._warmup = _NormalEquations()
        self._decode_only = _NormalEquations()
        self._mixed = _NormalEquations()
        self._cost = Cost(0.0, 0.0, 0.0)
        for sample in warmup:
            if sample.duration_ms > 0:
                self._warmup.add(sample, 1.0)
        if self._warmup.count:
            self._fit()

    @property
    def cost(self) -> Cost:
        return self._cost

    def observe(self, sample: CostSample) -> None:
        """Learn from a step that ran; a step without a time teaches nothing."""
        if sample.duration_ms <= 0:
            return
        kind = self._mixed if sample.num_prefill_tokens else self._decode_only
        if kind.count >= _TRUST_AFTER:
            expected = self._cost.step_ms(sample.num_prefill_tokens, sample.num_decodes)
            if 0 < expected * OUTLIER < sample.duration_ms:
                sample = CostSample(
                    sample.num_prefill_tokens, sample.num_decodes, expected * OUTLIER
                )
        kind.add(sample, _MEMORY)
        if kind.count < _FIT_EVERY or kind.count % _FIT_EVERY == 0:
            self._fit()

    def prefill_tokens_within(self, target_ms: float, num_decodes: int) -> int | None:
        """Prompt tokens that a step with so many decodes can read in the target time, at least 0;
        None while they are not known to cost anything.
        """
        cost = self._cost
        if cost.per_prefill_token <= 0:
            return None
        left = target_ms - cost.step_ms(0, num_decodes)
        return max(0, int(left / cost.per_prefill_token))

    def _fit(self) -> None:
        sums = [
            sum(parts)
            for parts in zip(
                self._warmup.sums, self._decode_only.sums, self._mixed.sums, strict=True
            )
        ]
        matrix = [
            [sums[0], sums[1], sums[2]],
            [sums[1], sums[3], sums[4]],
            [sums[2], sums[4], sums[5]],
        ]
        right = sums[6:]
        before = (self._cost.fixed, self._cost.per_prefill_token, self._cost.per_decode)
        for index in range(3):
            ridge = _RIDGE * matrix[index][index] + 1e-12
            matrix[index][index] += ridge
            right[index] += ridge * before[index]
        self._cost = Cost(*_solve_non_negative(matrix, right))


def _solve_non_negative(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Minimise x'Ax/2 - b'x over x >= 0 in three unknowns, by trying every set of unknowns that are
    not zero.
    """
    best, best_value = [0.0, 0.0, 0.0], 0.0
    for size in (3, 2, 1):
        for free in itertools.combinations(range(3), size):
            solution = _solve(matrix, right, free)
            if solution is None or min(solution) < 0:
                continue
            value = -0.5 * sum(right[index] * solution[index] for index in free)
            if value < best_value:
                best, best_value = solution, value
        if size == 3 and best_value < 0:
            break  # the free optimum is feasible: no bound is active
    return best


def _solve(
    matrix: list[list[float]], right: list[float], free: tuple[int, ...]
) -> list[float] | None:
    """Gauss elimination on the unknowns `free`, the others being zero; None if singular."""
    rows = [[matrix[i][j] for j in free] + [right[i]] for i in free]
    size = len(free)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        if abs(rows[pivot][column]) < 1e-30:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    solution = [0.0, 0.0, 0.0]
    for position, index in enumerate(free):
        solution[index] = rows[position][size] / rows[position][position]
    return solution
