"""Which rows of a step belong to which sequence, for operators that go through them in order."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRows:
    """A sequence's rows lie one after the other; sequences of one row (decodes) come first.

    slots: int64 [sequences]; first_rows: int64 [sequences + 1] on the host, the last entry is the
    number of rows; num_decodes: sequences of one row; new_slots: int64 [new sequences], those of
    which this step computes the first token.
    """

    slots: Tensor
    first_rows: Tensor
    num_decodes: int
    new_slots: Tensor

    def chunks(self) -> list[tuple[int, slice]]:
        """Index and rows of the sequences of more than one row."""
        bounds = self.first_rows.tolist()
        return [
            (index, slice(bounds[index], bounds[index + 1]))
            for index in range(self.num_decodes, len(bounds) - 1)
        ]
