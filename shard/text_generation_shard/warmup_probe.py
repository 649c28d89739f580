"""What steps cost, measured before the cache has its size.

The probe is a client of the engine: it sends the steps that the router would send, to an engine
whose cache is a single block. What it measures is therefore what serving costs. On CPU the steps
grow until a time budget is spent, and memory is extrapolated from the largest; on GPU the worst
step itself is run.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.assembly import make_engine
from text_generation_shard.cache_sizing import CacheBudget, CacheSize
from text_generation_shard.cuda_memory import PeakReserved
from text_generation_shard.distributed import RankGroup
from text_generation_shard.host import PeakMemory
from text_generation_shard.models.loading import LoadedModel
from text_generation_shard.ops.flash_attention import FlashAttention
from text_generation_shard.sampling.sampler import Sampler

# Time for measured steps on CPU, beyond the few that are always run.
_BUDGET_S = 0.2
_MIN_SAMPLES = 3
# The block that all sequences of the probe share.
_PROBE_BLOCK = 1
# Context of the decode rows that are measured, where the limits allow it.
_DECODE_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step of the warmup: tokens computed, decode rows among them, and how long it took."""

    tokens: int
    decodes: int
    milliseconds: float


class WarmupProbe:
    """Runs steps on an engine of one block."""

    def __init__(
        self,
        loaded: LoadedModel,
        sampler: Sampler,
        ranks: RankGroup,
        request: pb.WarmupRequest,
        budget: CacheBudget,
        flash: FlashAttention | None,
    ) -> None:
        self._request = request
        self._ranks = ranks
        self._spec = loaded.model.cache_spec
        self._is_encoder_decoder = loaded.model.config.decoder_start_token_id is not None
        # A recurrent layer computes a token alike after one and after many.
        decode_context = _DECODE_CONTEXT if self._spec.recurrent is None else 1
        self._max_context = budget.max_total_tokens
        if not self._is_encoder_decoder:  # an encoder's text is never cut
            longest = max(request.max_step_tokens, decode_context)
            self._max_context = min(budget.max_total_tokens, longest)
        self._decode_context = min(decode_context, self._max_context)
        size = CacheSize(
            num_blocks=_PROBE_BLOCK + 1,
            block_size=request.block_size,
            max_total_tokens=self._max_context,
            cache_bytes=0,
        )
        self._engine = make_engine(loaded, sampler, ranks, request, size, flash=flash)
        self._peak: PeakReserved | PeakMemory = PeakMemory()
        if self._spec.device.type == "cuda":
            self._peak = PeakReserved(self._spec.device)
        self._num_steps = 0

    def measure(self) -> list[MeasuredStep]:
        """Run ever larger steps, each twice, for the first run pays for what comes once."""
        samples: list[MeasuredStep] = []
        started = time.monotonic()
        for tokens, decodes in self._plan():
            if self._is_budget_spent(samples, tokens, time.monotonic() - started):
                break
            # What smaller steps left with a GPU's allocator would count, and not serve this one.
            torch.cuda.empty_cache()
            milliseconds = min(self._run(tokens, decodes) for _ in range(2))
            samples.append(MeasuredStep(tokens, decodes, milliseconds))
        return samples

    def activation_bytes(self, steps: list[MeasuredStep]) -> int:
        """Memory that the worst step needs for a moment, extrapolated from the largest run."""
        largest = max(step.tokens for step in steps)
        worst = max(self._worst_tokens, self._request.max_slots)
        if self._spec.device.type == "cuda":
            return self._peak.growth()
        # States are counted where the cache is sized; those in use here are part of the growth.
        states = self._spec.slots_bytes(max(step.decodes + 1 for step in steps))
        return max(0, self._peak.growth() - states) * max(1, -(-worst // largest))

    @property
    def _worst_tokens(self) -> int:
        """Tokens of the largest step: one encoder alone may read more than others together."""
        if self._is_encoder_decoder:
            return max(self._request.max_step_tokens, self._max_context)
        return self._request.max_step_tokens

    def _plan(self) -> Iterator[tuple[int, int]]:
        """(tokens, decode rows) of the steps, ascending in tokens; the worst comes last."""
        max_slots, max_tokens = self._request.max_slots, self._request.max_step_tokens
        sizes = [(1, 1), (16, 0), (8, 8), (64, 0), (32, 32), (256, 0), (128, 128), (1024, 0)]
        for tokens, decodes in sizes:
            if tokens < max_tokens and decodes <= max_slots:
                yield tokens, decodes
        decodes = 0 if self._is_encoder_decoder else min(max_slots, max_tokens) - 1
        yield self._worst_tokens, decodes

    def _is_budget_spent(self, samples: list[MeasuredStep], tokens: int, elapsed: float) -> bool:
        """Whether the next step would take too long; all ranks answer alike."""
        if len(samples) < _MIN_SAMPLES or self._spec.device.type == "cuda":
            return False
        last = samples[-1]
        predicted = 2 * last.milliseconds / 1000 * max(1.0, tokens / last.tokens)
        return self._ranks.maximum(elapsed + predicted > _BUDGET_S) > 0

    def _run(self, tokens: int, decodes: int) -> float:
        """One step of `decodes` decode rows and prompts for the rest; milliseconds."""
        if self._is_encoder_decoder:
            request = self._encoder_step(tokens, decodes)
        else:
            request = self._decoder_step(tokens, decodes)
        started = time.perf_counter()
        self._engine.step(request)
        milliseconds = (time.perf_counter() - started) * 1000
        self._engine.reset()
        return milliseconds

    def _decoder_step(self, tokens: int, decodes: int) -> pb.StepRequest:
        """Decode rows, and one chunk for the rest."""
        lengths = [self._decode_context] * decodes
        chunk = min(tokens - decodes, self._max_context)
        if chunk:
            lengths.append(chunk)
        request = self._new_step()
        for slot, length in enumerate(lengths):
            num_tokens = 1 if slot < decodes else length
            request.admissions.append(self._admission(slot, length, length - num_tokens))
            request.work_slots.append(slot)
            request.work_num_tokens.append(num_tokens)
        return request

    def _encoder_step(self, tokens: int, decodes: int) -> pb.StepRequest:
        """Decode rows, and encoders for the rest. Encoders of decode rows read in a step before, a
        token each: more would take most of the warmup.
        """
        before, request = self._new_step(), self._new_step()
        for slot in range(decodes):
            num_known = max(1, self._decode_context - 1)
            before.admissions.append(self._admission(slot, num_known, num_known - 1, 1))
            for step in (before, request):
                step.work_slots.append(slot)
                step.work_num_tokens.append(1)
        self._engine.step(before)
        unread = tokens - decodes
        for slot in range(decodes, self._request.max_slots):
            if unread < 2:
                break
            read = min(unread - 1, self._max_context)
            request.admissions.append(self._admission(slot, 1, 0, read))
            request.work_slots.append(slot)
            request.work_num_tokens.append(1)
            unread -= read + 1
        return request

    def _new_step(self) -> pb.StepRequest:
        self._num_steps += 1
        return pb.StepRequest(step=self._num_steps)

    def _admission(
        self, slot: int, length: int, num_cached: int, num_encoder_tokens: int = 0
    ) -> pb.Admission:
        block_size = self._request.block_size
        # One token more than is known has room.
        num_blocks = -(-(length + 1) // block_size)
        sampling = pb.SamplingParameters(temperature=1, top_p=1, typical_p=1, repetition_penalty=1)
        return pb.Admission(
            slot=slot,
            token_ids=[0] * length,
            num_cached_tokens=num_cached,
            block_ids=[_PROBE_BLOCK] * num_blocks,
            sampling=sampling,
            encoder_token_ids=[0] * num_encoder_tokens,
            encoder_block_ids=[_PROBE_BLOCK] * -(-num_encoder_tokens // block_size),
        )
