"""What a step computes and what came of it, in plain ints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from text_generation_router.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that takes a slot with this step."""

    sequence: Sequence
    slot: int
    # All its tokens at that moment; emitted ones count from the end.
    token_ids: list[int]
    num_emitted: int
    # Tokens whose keys and values lie in the blocks already.
    num_cached_tokens: int
    block_ids: list[int]
    # Where the keys and values of what its encoder reads go.
    encoder_block_ids: list[int]
    prompt_logprobs: bool


@dataclass(slots=True)
class StepPlan:
    """One step. `work_*` are parallel: item i computes the next `work_num_tokens[i]` tokens of the
    sequence in slot `work_slots[i]`, after `work_num_new_blocks[i]` entries of `new_block_ids` were
    appended to its block table.
    """

    step: int
    retired_slots: list[int] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    work_slots: list[int] = field(default_factory=list)
    work_num_tokens: list[int] = field(default_factory=list)
    work_num_new_blocks: list[int] = field(default_factory=list)
    new_block_ids: list[int] = field(default_factory=list)
    # The sequences of the work items, and those among them whose item samples, in work order.
    sequences: list[Sequence] = field(default_factory=list)
    sampling: list[Sequence] = field(default_factory=list)
    num_decodes: int = 0
    # Tokens of prompts, those that encoders read included.
    num_prefill_tokens: int = 0
    # Blocks that this step fills and that were named for it: (block, name).
    named_blocks: list[tuple[int, bytes]] = field(default_factory=list)
    # Whether the next step is planned when this one is done: it takes long, and somebody may come.
    is_long: bool = False
    # Set when an earlier step failed after this one was sent: its result counts for nothing.
    is_void: bool = False

    def add_work(self, sequence: Sequence, num_tokens: int, new_blocks: list[int]) -> None:
        """Append one work item; its sequence holds a slot."""
        assert sequence.slot is not None
        self.work_slots.append(sequence.slot)
        self.work_num_tokens.append(num_tokens)
        self.work_num_new_blocks.append(len(new_blocks))
        self.new_block_ids += new_blocks
        self.sequences.append(sequence)


@dataclass(frozen=True, slots=True)
class StepFailure:
    """A step that was not computed; its sequences in `slots` (all, if empty) have failed."""

    message: str
    slots: list[int]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the shards answered: one token id for each sampling item, in work order, or a failure.

    `duration_ms` is the time the shards spent on the step.
    """

    step: int
    token_ids: list[int]
    duration_ms: float = 0.0
    failure: StepFailure | None = None
    # Why the sequences in these slots failed alone; their token ids mean nothing.
    slot_failures: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FailedSequence:
    """A sequence that ended for this reason."""

    sequence: Sequence
    message: str


@dataclass(frozen=True, slots=True)
class AppliedStep:
    """What an outcome meant. `rows` runs parallel to the outcome's token ids: the sequence that the
    token belongs to now, or None where it is discarded.
    """

    plan: StepPlan
    rows: list[Sequence | None]
    failed: list[FailedSequence]


class StepMismatchError(Exception):
    """An outcome does not fit the step that it claims to answer: the shards are out of step."""
