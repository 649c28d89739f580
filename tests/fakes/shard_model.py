"""What a shard without a model answers, and its check of the router.

Its tokens are a function of all tokens before them (an encoder-decoder's, also of what its encoder
read), so whoever loses, repeats or mixes up a token gets another text. A strict one also keeps the
cache as a real one would (what each place of each block holds) and checks before every step that
the context it reads is there, that no block is written by two sequences, and every rule of
proto/shard.proto.
"""

import zlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from text_generation_proto import shard_pb2

_MASK = (1 << 61) - 1


@dataclass(frozen=True, kw_only=True)
class FakeFailure:
    """What happens instead of computing a step, or beside it."""

    # True: the shard goes on. False: it ends.
    is_recoverable: bool = True
    # Which of the step's work items fail, by index; empty means all.
    items: tuple[int, ...] = ()
    # The step is computed; only its items that are named fail.
    is_alone: bool = False
    message: str = "scripted failure"


@dataclass(frozen=True, kw_only=True)
class FakeShardConfig:
    """How the fake behaves."""

    vocab_size: int = 1000
    max_position_embeddings: int = 4096
    # If given, the fake is an encoder-decoder.
    decoder_start_token_id: int | None = None
    supports_prefix_cache: bool = True
    # Used when the router leaves the size of the cache to the shard.
    num_blocks: int = 512
    # Seconds that a step takes, one after the other.
    step_seconds: float = 0.0
    is_strict: bool = True
    # If given, a sequence's i-th output token is script[i % len(script)].
    script: tuple[int, ...] = ()
    # If given, every sequence's output token number `eos_after` (from 1) is `eos_token_id`.
    eos_token_id: int | None = None
    eos_after: int = 0
    # Steps that fail, by number.
    failures: Mapping[int, FakeFailure] = field(default_factory=dict)
    # Number of the step at which the stream breaks, and at which the shard hangs.
    break_at_step: int | None = None
    hang_at_step: int | None = None
    # Number of the step whose result has a log-probability that belongs to no token.
    garble_at_step: int | None = None
    # Why it does not warm up, if it does not.
    warmup_refusal: str = ""
    measured_steps: tuple[tuple[int, int, float], ...] = ()


class ProtocolViolation(Exception):  # noqa: N818
    """The router broke a rule of the protocol."""


class _Slot:
    """What the shard knows of one sequence."""

    def __init__(self, admission: shard_pb2.Admission) -> None:
        self.num_known = len(admission.token_ids)
        self.num_computed = admission.num_cached_tokens
        self.num_prompt = self.num_known - admission.num_emitted
        self.block_table = list(admission.block_ids)
        self.encoder_table = list(admission.encoder_block_ids)
        self.top_n_tokens = admission.top_n_tokens
        self.prompt_logprobs = admission.prompt_logprobs
        self.num_admitted = self.num_known
        # Whether a step that should have computed part of it failed.
        self.is_lost = False
        # Hash of the tokens up to each position (strict: all of them, else only the last).
        # The same of what its encoder read, and whether that lies in its blocks.
        self.encoder_chain = _chain(0, admission.encoder_token_ids)
        self.is_encoded = False
        self.chain = _chain(
            self.encoder_chain[-1] if self.encoder_chain else 0, admission.token_ids
        )
        self.last = self.chain[-1]


def _extend(chain: int, token_id: int) -> int:
    return (chain * 6364136223846793005 + token_id + 1442695040888963407) & _MASK


def _chain(last: int, token_ids: Iterable[int]) -> list[int]:
    chain = []
    for token_id in token_ids:
        last = _extend(last, token_id)
        chain.append(last)
    return chain


class ShardModel:
    """The shard's side of the step log, without a transport: `step` takes a request, gives the
    result. Raises `ProtocolViolation` (strict only).
    """

    def __init__(self, config: FakeShardConfig, warmup: shard_pb2.WarmupRequest) -> None:
        self.config = config
        self.block_size = warmup.block_size
        self.max_slots = warmup.max_slots
        self.max_step_tokens = warmup.max_step_tokens
        self.num_blocks = (
            -(-warmup.max_cache_tokens // warmup.block_size) + 1
            if warmup.max_cache_tokens
            else config.num_blocks
        )
        self.max_total_tokens = warmup.max_total_tokens or min(
            config.max_position_embeddings, (self.num_blocks - 1) * self.block_size
        )
        self.last_step = 0
        self._slots: dict[int, _Slot] = {}
        # What each written place holds: chain hash by (block, offset).
        self._cache: dict[tuple[int, int], int] = {}
        # The last step that failed. The one after it may have been planned on it.
        self._failed_step = -1

    def step(self, request: shard_pb2.StepRequest) -> shard_pb2.StepResult:
        """Execute one step."""
        if request.step != self.last_step + 1:
            raise ProtocolViolation(f"step {request.step} follows step {self.last_step}")
        self.last_step = request.step
        self._retire(request)
        for admission in request.admissions:
            self._admit(admission)
        slots = list(request.work_slots)
        self._append_blocks(request, slots)
        failure = self.config.failures.get(request.step)
        if failure is None:
            return self._execute(request, slots)
        if failure.is_alone:
            result = self._execute(request, slots)
            for item in failure.items:
                if item < len(slots):
                    result.failures.add(slot=slots[item], message=failure.message)
            return result
        self._failed_step = request.step
        return self._fail(request, slots, failure)

    def _fail(
        self, request: shard_pb2.StepRequest, slots: list[int], failure: FakeFailure
    ) -> shard_pb2.StepResult:
        """Keep count as if the step had been computed; what it should have made is lost."""
        for slot_id, num_tokens in zip(slots, request.work_num_tokens, strict=True):
            slot = self._slots[slot_id]
            slot.is_lost = slot.is_encoded = True
            slot.num_computed += num_tokens
            if slot.num_computed == slot.num_known:
                self._sample(slot)
        kinds = shard_pb2.StepError
        slots = list(request.work_slots)
        return shard_pb2.StepResult(
            step=request.step,
            error=shard_pb2.StepError(
                kind=kinds.KIND_RECOVERABLE if failure.is_recoverable else kinds.KIND_FATAL,
                message=failure.message,
                slots=[slots[item] for item in failure.items if item < len(slots)],
            ),
        )

    def _retire(self, request: shard_pb2.StepRequest) -> None:
        for slot in request.retired_slots:
            if self._slots.pop(slot, None) is None:
                self._violated(f"slot {slot} is retired but empty")

    def _execute(
        self, request: shard_pb2.StepRequest, work_slots: list[int]
    ) -> shard_pb2.StepResult:
        work_num_tokens = list(request.work_num_tokens)
        if self.config.is_strict:
            self._check_step(work_slots, work_num_tokens)
        sampled: list[_Slot] = []
        token_ids: list[int] = []
        result = shard_pb2.StepResult(step=request.step)
        slots = self._slots
        for slot_id, num_tokens in zip(work_slots, work_num_tokens, strict=True):
            slot = slots[slot_id]
            if slot.prompt_logprobs:
                self._report_prompt(result, slot_id, slot, num_tokens)
            slot.num_computed += num_tokens
            if slot.num_computed == slot.num_known:
                token_ids.append(self._sample(slot))
                sampled.append(slot)
        result.token_ids.extend(token_ids)
        result.logprobs.extend([-0.5] * len(token_ids))
        if any(slot.top_n_tokens for slot in sampled):
            for slot, token_id in zip(sampled, token_ids, strict=True):
                count = slot.top_n_tokens
                result.top_n_counts.append(count)
                vocab_size = self.config.vocab_size
                result.top_n_token_ids.extend((token_id + i) % vocab_size for i in range(count))
                result.top_n_logprobs.extend(-0.5 - i for i in range(count))
        result.sampled_checksum = zlib.crc32(array("I", token_ids).tobytes())
        return result

    def _admit(self, admission: shard_pb2.Admission) -> None:
        if self.config.is_strict:
            self._check_admission(admission)
        self._slots[admission.slot] = _Slot(admission)

    def _append_blocks(self, request: shard_pb2.StepRequest, work_slots: list[int]) -> None:
        if not request.work_num_new_blocks:
            return
        new_blocks = list(request.new_block_ids)
        start = 0
        for slot_id, count in zip(work_slots, request.work_num_new_blocks, strict=True):
            self._slots[slot_id].block_table += new_blocks[start : start + count]
            start += count
        if start != len(new_blocks):
            self._violated(f"{len(new_blocks)} new blocks, {start} are used")

    def _sample(self, slot: _Slot) -> int:
        """Choose the next token, which becomes known."""
        config = self.config
        num_output = slot.num_known - slot.num_prompt + 1
        if num_output == config.eos_after and config.eos_token_id is not None:
            token_id = config.eos_token_id
        elif config.script:
            token_id = config.script[(num_output - 1) % len(config.script)]
        else:
            token_id = (slot.last >> 20) % config.vocab_size
        slot.num_known += 1
        slot.last = _extend(slot.last, token_id)
        if config.is_strict:
            slot.chain.append(slot.last)
        return token_id

    def _report_prompt(
        self, result: shard_pb2.StepResult, slot_id: int, slot: _Slot, num_tokens: int
    ) -> None:
        first = slot.num_computed + 1
        last = min(slot.num_computed + num_tokens, slot.num_admitted - 1)
        if last >= first:
            result.prompt_logprobs.append(
                shard_pb2.PromptLogprobs(
                    slot=slot_id,
                    first_position=first,
                    logprobs=[-float(position) for position in range(first, last + 1)],
                    top_n_token_ids=[
                        (position + i) % self.config.vocab_size
                        for position in range(first, last + 1)
                        for i in range(slot.top_n_tokens)
                    ],
                    top_n_logprobs=[
                        -float(position) - i
                        for position in range(first, last + 1)
                        for i in range(slot.top_n_tokens)
                    ],
                )
            )

    def _violated(self, message: str) -> None:
        if self.config.is_strict:
            raise ProtocolViolation(f"step {self.last_step}: {message}")

    def _check_admission(self, admission: shard_pb2.Admission) -> None:
        slot = admission.slot
        if not 0 <= slot < self.max_slots:
            self._violated(f"slot {slot} is out of range")
        if slot in self._slots:
            self._violated(f"slot {slot} is admitted but taken")
        num_tokens, num_cached = len(admission.token_ids), admission.num_cached_tokens
        if not 0 < num_tokens <= self.max_total_tokens:
            self._violated(f"slot {slot} is admitted with {num_tokens} tokens")
        if num_cached >= num_tokens or num_cached % self.block_size:
            self._violated(f"slot {slot}: {num_cached} of {num_tokens} tokens are cached")
        if num_cached and not self.config.supports_prefix_cache:
            self._violated(f"slot {slot} begins with another sequence's tokens")
        if num_cached > len(admission.block_ids) * self.block_size:
            self._violated(f"slot {slot}: cached tokens without blocks")
        if admission.prompt_logprobs and num_cached:
            self._violated(f"slot {slot}: prompt log-probabilities of cached tokens")
        if admission.sampling.temperature <= 0:
            self._violated(f"slot {slot}: temperature {admission.sampling.temperature}")
        self._check_encoder(admission)

    def _check_encoder(self, admission: shard_pb2.Admission) -> None:
        slot, num_tokens = admission.slot, len(admission.encoder_token_ids)
        if (num_tokens > 0) != (self.config.decoder_start_token_id is not None):
            self._violated(f"slot {slot} is admitted with {num_tokens} tokens for an encoder")
        if num_tokens > self.max_total_tokens:
            self._violated(f"slot {slot}: the encoder's {num_tokens} tokens are too many")
        if len(admission.encoder_block_ids) != -(-num_tokens // self.block_size):
            self._violated(f"slot {slot}: blocks for {num_tokens} tokens of the encoder")
        if num_tokens and admission.prompt_logprobs:
            self._violated(f"slot {slot}: log-probabilities of a start token")

    def _check_step(self, work_slots: list[int], work_num_tokens: list[int]) -> None:
        """Everything a step may do wrong, before anything is written; then write."""
        self._encode(work_slots, sum(work_num_tokens))
        if not work_slots:
            self._violated("a step without work")
        if len(set(work_slots)) != len(work_slots):
            self._violated("two work items for one slot")
        if sum(work_num_tokens) > self.max_step_tokens:
            self._violated(f"{sum(work_num_tokens)} tokens in a step of {self.max_step_tokens}")
        for slot_id, num_tokens in zip(work_slots, work_num_tokens, strict=True):
            if slot_id not in self._slots:
                self._violated(f"work for slot {slot_id}, which is empty")
            self._check_context(slot_id, num_tokens)
        holders: dict[int, int] = {}
        for slot in self._slots.values():
            for block in [*slot.block_table, *slot.encoder_table]:
                holders[block] = holders.get(block, 0) + 1
            if any(holders[block] > 1 for block in slot.encoder_table):
                self._violated("a block of an encoder is shared")
        for slot_id, num_tokens in zip(work_slots, work_num_tokens, strict=True):
            slot = self._slots[slot_id]
            for position in range(slot.num_computed, slot.num_computed + num_tokens):
                block = slot.block_table[position // self.block_size]
                if holders[block] > 1:
                    self._violated(f"slot {slot_id} writes into shared block {block}")
                self._cache[block, position % self.block_size] = slot.chain[position]

    def _encode(self, work_slots: list[int], num_tokens: int) -> None:
        """The encoders of this step's new sequences, all of which must have work in it."""
        new = {slot_id for slot_id, slot in self._slots.items() if not slot.is_encoded}
        if not new <= set(work_slots):
            self._violated(f"slots {new - set(work_slots)} are admitted without work")
        reading = [self._slots[slot_id] for slot_id in new]
        num_read = sum(len(slot.encoder_chain) for slot in reading)
        if (
            sum(1 for slot in reading if slot.encoder_chain) > 1
            and num_read + num_tokens > self.max_step_tokens
        ):
            self._violated(f"encoders of {num_read} tokens in a step of {self.max_step_tokens}")
        for slot in reading:
            slot.is_encoded = True
            for position, chain in enumerate(slot.encoder_chain):
                block = slot.encoder_table[position // self.block_size]
                self._cache[block, position % self.block_size] = chain

    def _check_context(self, slot_id: int, num_tokens: int) -> None:
        """The work fits the sequence and its blocks, and the blocks hold what it reads."""
        slot = self._slots[slot_id]
        end = slot.num_computed + num_tokens
        is_after_failure = self.last_step == self._failed_step + 1
        if slot.is_lost and not is_after_failure:
            self._violated(f"slot {slot_id} goes on although its tokens were lost")
        if num_tokens < 1 or end > slot.num_known:
            self._violated(f"slot {slot_id}: tokens up to {end}, {slot.num_known} are known")
        if end > self.max_total_tokens:
            self._violated(f"slot {slot_id}: beyond max_total_tokens")
        if end > len(slot.block_table) * self.block_size:
            self._violated(f"slot {slot_id}: {end} tokens, {len(slot.block_table)} blocks")
        for block in slot.block_table:
            if not 0 < block < self.num_blocks:
                self._violated(f"slot {slot_id}: block {block} is out of range")
        for block in slot.encoder_table:
            if not 0 < block < self.num_blocks:
                self._violated(f"slot {slot_id}: the encoder's block {block} is out of range")
        for position, chain in enumerate(slot.encoder_chain):
            block = slot.encoder_table[position // self.block_size]
            if self._cache.get((block, position % self.block_size)) != chain:
                slot.is_lost = True
                if not is_after_failure:
                    self._violated(f"slot {slot_id}: what its encoder read is gone")
        for position in range(slot.num_computed):
            place = (slot.block_table[position // self.block_size], position % self.block_size)
            if self._cache.get(place) != slot.chain[position]:
                slot.is_lost = True
                if not is_after_failure:
                    self._violated(f"slot {slot_id}: position {position} is not in its block")
