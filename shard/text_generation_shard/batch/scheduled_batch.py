"""What one step computes, as plain ints: the work of a StepRequest after it was checked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """The next tokens of one sequence.

    known tokens   [ computed before | start ... end ) ... num_tokens )
    sampled at     num_tokens, if end reaches it
    """

    slot: int
    start: int
    num_tokens: int
    # Whether the item reaches the last known token, so that the next one is sampled.
    is_sampled: bool
    # What the sequence's encoder reads before, if this is its first item.
    num_encoder_tokens: int = 0

    @property
    def end(self) -> int:
        """The context: all tokens up to and with the last one computed."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The items of one step in work order, and in the order of their rows in the tensors."""

    items: tuple[WorkItem, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(item.num_tokens for item in self.items)

    @property
    def num_decodes(self) -> int:
        """Items of one token."""
        return sum(1 for item in self.items if item.num_tokens == 1)

    @property
    def sampled(self) -> tuple[WorkItem, ...]:
        """The items that sample, in work order: the order of the result."""
        return tuple(item for item in self.items if item.is_sampled)

    @property
    def sampled_slots(self) -> list[int]:
        """The slots of `sampled`."""
        return [item.slot for item in self.items if item.is_sampled]

    def in_row_order(self) -> tuple[WorkItem, ...]:
        """Decode rows first, short contexts before long ones; then the chunks in work order."""
        decodes = [item for item in self.items if item.num_tokens == 1]
        decodes.sort(key=lambda item: item.end)
        return (*decodes, *(item for item in self.items if item.num_tokens > 1))
