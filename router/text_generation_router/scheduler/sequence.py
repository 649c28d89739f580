"""A sequence: the truth about one generation, from which a shard can rebuild all it ever knew.

    WAITING ⇄ RUNNING → ENDED      PREEMPTED → WAITING
       └────────┼──────────↑           ↑
                └──────────────────────┘

A token is *known* once a planned step samples it, though its id may still be on the device only:

    token_ids      |----------- prompt -----------|--- emitted ---|
    known tokens   |----------- num_known_tokens ------------------- pending -|
    computed       |----------- num_computed_tokens (keys and values) ---|

`num_computed_tokens` counts what the steps sent so far will have computed when they have run.

All this is about the decoder. What the encoder of an encoder-decoder reads is `encoder_ids`: it is
read whole by the step that admits the sequence, into blocks of a table of their own.
"""

import enum
import hashlib
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field


class SequenceState(enum.Enum):
    """Where a sequence is in its life."""

    # In the queue: no slot, no blocks, all its tokens are on the host.
    WAITING = "waiting"
    # Holds a slot and blocks.
    RUNNING = "running"
    # Lost slot and blocks while a sampled token was under way; queues again when that arrives.
    PREEMPTED = "preempted"
    # Over, for the reason in `ending`.
    ENDED = "ended"


class Ending(enum.Enum):
    """Why a sequence is over."""

    # It reached its number of new tokens.
    LENGTH = "length"
    # It sampled one of its end-of-sequence tokens.
    EOS_TOKEN = "eos_token"  # noqa: S105
    # Its text reached a stop string (which the scheduler is told).
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"


LEGAL_MOVES: dict[SequenceState, frozenset[SequenceState]] = {
    SequenceState.WAITING: frozenset({SequenceState.RUNNING, SequenceState.ENDED}),
    SequenceState.RUNNING: frozenset(
        {SequenceState.WAITING, SequenceState.PREEMPTED, SequenceState.ENDED}
    ),
    SequenceState.PREEMPTED: frozenset({SequenceState.WAITING, SequenceState.ENDED}),
    SequenceState.ENDED: frozenset(),
}


class IllegalMoveError(AssertionError):
    """A sequence was asked to go from one state to another that cannot follow it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One generation. Owned by the scheduler; everyone else reads."""

    sequence_id: int
    # Prompt and emitted tokens whose ids the host knows.
    token_ids: list[int]
    max_new_tokens: int
    # Tokens that end it; empty when end-of-sequence is ignored.
    eos_token_ids: Collection[int] = frozenset()
    # Whether the log-probabilities of its prompt are still to be computed: then no part of the
    # prompt may come from the prefix cache.
    needs_prompt_logprobs: bool = False
    # What the encoder of an encoder-decoder reads; empty for all other models.
    encoder_ids: tuple[int, ...] = ()
    # Seconds on the caller's clock.
    arrived_at: float

    state: SequenceState = SequenceState.WAITING
    ending: Ending | None = None
    slot: int | None = None
    block_table: list[int] = field(default_factory=list)
    encoder_table: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    # Prompt tokens found in the prefix cache when it was first admitted.
    num_cached_tokens: int = 0
    # Blocks of the block table, from the first, that are named in the prefix cache (or whose
    # name another block holds already).
    num_named_blocks: int = 0
    # Rank in the queue: the smallest goes first.
    deadline: float = 0.0
    # When it last got a slot, and when it first did.
    admitted_at: float = 0.0
    first_admitted_at: float | None = None
    num_preemptions: int = 0

    # Set once from the above.
    num_prompt_tokens: int = field(init=False)
    max_known_tokens: int = field(init=False)
    num_known_tokens: int = field(init=False)
    block_names: list[bytes] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        self.num_known_tokens = self.num_prompt_tokens
        self.max_known_tokens = self.num_prompt_tokens + self.max_new_tokens

    @property
    def num_input_tokens(self) -> int:
        """Tokens of the prompt as a client knows it: the encoder's where there is one."""
        return len(self.encoder_ids) or self.num_prompt_tokens

    @property
    def max_total_tokens(self) -> int:
        """What it may grow to, as the limit of this name counts: input and output."""
        return self.num_input_tokens + self.max_new_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that planned steps sample and whose ids have not arrived."""
        return self.num_known_tokens - len(self.token_ids)

    @property
    def num_emitted_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining_tokens(self) -> int:
        """Known tokens that no planned step computes yet."""
        return self.num_known_tokens - self.num_computed_tokens

    @property
    def num_unread_tokens(self) -> int:
        """The same, and before it is admitted what its encoder has to read."""
        return self.num_remaining_tokens + (len(self.encoder_ids) if self.slot is None else 0)

    def move_to(self, state: SequenceState) -> None:
        """Change state; raises `IllegalMoveError` naming both if the table has no such move."""
        if state not in LEGAL_MOVES[self.state]:
            raise IllegalMoveError(
                f"sequence {self.sequence_id} cannot go from {self.state.value} to {state.value}"
            )
        self.state = state

    def restart(self) -> None:
        """Forget what the shards knew of it and the tokens under way; it waits again. Its slot and
        blocks are gone with the shards. Names of blocks may change with the block size.
        """
        if self.state is not SequenceState.WAITING:
            self.move_to(SequenceState.WAITING)
        self.slot = None
        self.block_table = []
        self.encoder_table = []
        self.block_names = []
        self.num_computed_tokens = 0
        self.num_named_blocks = 0
        self.num_known_tokens = len(self.token_ids)

    def block_name(self, index: int, block_size: int) -> bytes:
        """Name of its full block `index`: a hash chained over (parent block, token ids), rooted in
        what the encoder reads, for a decoder's keys and values depend on it. Equal names mean equal
        tokens from the first on (BLAKE2b, 128 bits).

        The block's token ids must be known on the host.
        """
        names = self.block_names
        while len(names) <= index:
            parent = names[-1] if names else _digest(self.encoder_ids)
            start = len(names) * block_size
            tokens = self.token_ids[start : start + block_size]
            assert len(tokens) == block_size, "a name needs a full block of known token ids"
            names.append(_digest(tokens, parent))
        return names[index]


def _digest(token_ids: Iterable[int], parent: bytes = b"") -> bytes:
    return hashlib.blake2b(parent + array("I", token_ids).tobytes(), digest_size=16).digest()
