"""The queue: shortest prompt first, but with ageing.

A sequence's rank is a deadline, `arrival + PATIENCE x time to read what remains of it`. It does not
move while the sequence waits, and whoever arrives after it has a later arrival: only those that
arrive before the deadline can be served earlier, so nothing starves, and a short prompt overtakes
a long one that has not waited long.
"""

import heapq

from text_generation_router.scheduler.sequence import Sequence, SequenceState

# How many times its own reading time a prompt may be overtaken for.
PATIENCE = 4.0
# Sequences that ended in the queue and are kept at the least before they are looked for.
_MIN_ENDED = 64


def deadline(arrived_at: float, reading_seconds: float) -> float:
    """Rank of a sequence that arrived then and takes this long to read; the smallest is first."""
    return arrived_at + PATIENCE * reading_seconds


class WaitingQueue:
    """Sequences without a slot, by deadline. Removal is lazy: a sequence that ends while it waits
    is dropped when it reaches the front, or when such are more than those that wait: the front may
    stand still while clients come and go.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._num_waiting = 0
        self._num_tokens = 0

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def num_tokens(self) -> int:
        """Tokens to be read, all waiting sequences together."""
        return self._num_tokens

    def push(self, sequence: Sequence) -> None:
        if len(self._heap) > 2 * self._num_waiting + _MIN_ENDED:
            self._heap = self._waiting_entries()
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (sequence.deadline, sequence.sequence_id, sequence))
        self._num_waiting += 1
        self._num_tokens += sequence.num_unread_tokens

    def peek(self) -> Sequence | None:
        """The first sequence that still waits."""
        while self._heap and self._heap[0][2].state is not SequenceState.WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> Sequence:
        """Take the sequence that `peek` showed."""
        sequence = heapq.heappop(self._heap)[2]
        self.forget(sequence)
        return sequence

    def forget(self, sequence: Sequence) -> None:
        """Stop counting a waiting sequence that is about to end."""
        self._num_waiting -= 1
        self._num_tokens -= sequence.num_unread_tokens

    def sequences(self) -> list[Sequence]:
        """All that wait, in no order."""
        return [sequence for *_, sequence in self._waiting_entries()]

    def _waiting_entries(self) -> list[tuple[float, int, Sequence]]:
        return [entry for entry in self._heap if entry[2].state is SequenceState.WAITING]

    def check_integrity(self) -> None:
        waiting = self.sequences()
        assert len({sequence.sequence_id for sequence in waiting}) == len(waiting), "queued twice"
        assert len(waiting) == self._num_waiting
        assert sum(sequence.num_unread_tokens for sequence in waiting) == self._num_tokens
