"""Writes step requests as a router would, without seeing a result: the way steps are sent ahead."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from text_generation_proto import shard_pb2 as pb


def sampling(**settings: Any) -> pb.SamplingParameters:
    return pb.SamplingParameters(
        **{
            "temperature": 1.0,
            "top_p": 1.0,
            "typical_p": 1.0,
            "repetition_penalty": 1.0,
            **settings,
        }
    )


@dataclass
class _Slot:
    sequence_id: int
    num_known: int
    num_computed: int
    block_ids: list[int]


@dataclass
class StepScript:
    """Numbers steps, gives blocks on demand, and remembers whose token comes where."""

    block_size: int = 4
    first_block: int = 1
    requests: list[pb.StepRequest] = field(default_factory=list)
    # For each step, the sequence of every sampled token.
    sampled: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._next_block = self.first_block
        self._next = pb.StepRequest()

    def admit(
        self,
        slot: int,
        token_ids: Iterable[int],
        *,
        sequence_id: int | None = None,
        block_ids: Iterable[int] = (),
        encoder_ids: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        """With the next step; the sequence's id is the slot's number unless said otherwise."""
        token_ids, block_ids = list(token_ids), list(block_ids)
        num_encoder_blocks = -(-len(encoder_ids) // self.block_size)
        identity = slot if sequence_id is None else sequence_id
        settings.setdefault("sampling", sampling())
        admission = pb.Admission(
            slot=slot,
            sequence_id=identity,
            token_ids=token_ids,
            block_ids=block_ids,
            encoder_token_ids=encoder_ids,
            encoder_block_ids=[self._take_block() for _ in range(num_encoder_blocks)],
            **settings,
        )
        self._next.admissions.append(admission)
        num_computed = admission.num_cached_tokens
        self._slots[slot] = _Slot(identity, len(token_ids), num_computed, block_ids)

    def retire(self, slot: int) -> list[int]:
        """With the next step; returns the blocks, which stay as they are."""
        self._next.retired_slots.append(slot)
        return self._slots.pop(slot).block_ids

    def step(self, work: dict[int, int]) -> None:
        """Slot to number of tokens, in work order."""
        request, self._next = self._next, pb.StepRequest()
        request.step = len(self.requests) + 1
        sampled = []
        for slot, num_tokens in work.items():
            state = self._slots[slot]
            state.num_computed += num_tokens
            needed = -(-state.num_computed // self.block_size) - len(state.block_ids)
            new_blocks = [self._take_block() for _ in range(needed)]
            state.block_ids += new_blocks
            request.work_slots.append(slot)
            request.work_num_tokens.append(num_tokens)
            request.work_num_new_blocks.append(len(new_blocks))
            request.new_block_ids.extend(new_blocks)
            if state.num_computed == state.num_known:
                state.num_known += 1
                sampled.append(state.sequence_id)
        if not request.new_block_ids:
            request.ClearField("work_num_new_blocks")
        self.requests.append(request)
        self.sampled.append(sampled)

    def num_computed(self, slot: int) -> int:
        """Tokens of a slot in the cache."""
        return self._slots[slot].num_computed

    def prefill(self, slot: int, chunk: int) -> None:
        """Steps until the sequence has its first new token."""
        state = self._slots[slot]
        while (remaining := state.num_known - state.num_computed) > 0:
            self.step({slot: min(chunk, remaining)})
            if remaining <= chunk:
                return

    def decode(self, slots: Iterable[int], num_steps: int) -> None:
        for _ in range(num_steps):
            self.step(dict.fromkeys(slots, 1))

    def tokens(self, results: Iterable[pb.StepResult]) -> dict[int, list[int]]:
        """What each sequence got."""
        tokens: dict[int, list[int]] = {}
        for sampled, result in zip(self.sampled, results, strict=True):
            assert not result.HasField("error"), result.error.message
            for sequence_id, token_id in zip(sampled, result.token_ids, strict=True):
                tokens.setdefault(sequence_id, []).append(token_id)
        return tokens

    def play(self, step: Callable[[pb.StepRequest], pb.StepResult]) -> dict[int, list[int]]:
        return self.tokens([step(request) for request in self.requests])

    def _take_block(self) -> int:
        self._next_block += 1
        return self._next_block - 1
