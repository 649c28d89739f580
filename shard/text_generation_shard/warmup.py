"""From a loaded model to an engine: measure the worst steps, size the cache, allocate.

Warmup is a client of the engine: it sends the steps that the router would send, to an engine whose
cache is a single block. What it measures is therefore what serving costs. On CPU the steps grow
until a time budget is spent, and memory is extrapolated from the largest; on GPU the worst step
itself is run.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.attention_choice import PromptShape, choose_attention
from text_generation_shard.batch.slots import SequenceSlots, SlotLimits
from text_generation_shard.cache_sizing import CacheBudget, CacheSize, size_cache
from text_generation_shard.config import AttentionName
from text_generation_shard.cuda_memory import PeakReserved
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.grammar.tokenizer import NOT_ASKED_FOR, GrammarTokenizer
from text_generation_shard.host import PeakMemory
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.models.loading import LoadedModel
from text_generation_shard.models.model import Model
from text_generation_shard.ops.flash_attention import FlashAttention
from text_generation_shard.runner.cpu_graph import CpuGraphRecorder
from text_generation_shard.runner.cuda_graph import CudaGraphRecorder
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import buckets_for, can_be_recorded, graph_policy
from text_generation_shard.runner.step_graph import GraphRecorder
from text_generation_shard.sampling.parallel import ParallelSampler
from text_generation_shard.sampling.sampler import Sampler, TokenSampler
from text_generation_shard.unused_blocks import UnusedBlocks

logger = logging.getLogger(__name__)

# Time for measured steps on CPU, beyond the few that are always run.
_BUDGET_S = 0.2
_MIN_SAMPLES = 3
# The block that all sequences of the warmup share.
_PROBE_BLOCK = 1
# Context of the decode rows that are measured, where the limits allow it.
_DECODE_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step of the warmup: tokens computed, decode rows among them, and how long it took."""

    tokens: int
    decodes: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class WarmEngine:
    """An engine that is ready to serve, and what the router learns about it."""

    engine: Engine
    response: pb.WarmupResponse


def warm_up(
    loaded: LoadedModel,
    sampler: Sampler,
    ranks: RankGroup,
    request: pb.WarmupRequest,
    *,
    available_bytes: int,
    grammar_tokenizer: GrammarTokenizer = NOT_ASKED_FOR,
    graph_buckets: tuple[int, ...] = (),
    attention: AttentionName = "auto",
) -> WarmEngine:
    """Measure, size and allocate; all ranks call this at the same time.

    available_bytes: memory that this rank may use beyond what it holds already. graph_buckets:
    rows of the decode graphs that there may be. attention: who attends to prompts. CapacityError
    names the flags that ask for more than there is.
    """
    started = time.monotonic()
    graph_buckets = buckets_for(graph_buckets, request.max_slots)
    policy = graph_policy(loaded.model.cache_spec.device, ranks)
    available_bytes -= policy.num_bytes(graph_buckets, loaded.model.config.vocab_size)
    budget = CacheBudget.of_request(request, loaded.model, available_bytes)
    flash = choose_attention(attention, _prompt_shape(loaded.model, ranks, request))
    budget = replace(budget, spec=_cache_spec(loaded.model, flash))
    probe = _Probe(loaded, sampler, ranks, request, budget, flash)
    steps = probe.measure()
    size = size_cache(budget, activation_bytes=probe.activation_bytes(steps), ranks=ranks)
    # A GPU has no room for the probe's memory beside the cache.
    del probe
    torch.cuda.empty_cache()
    engine = make_engine(
        loaded,
        sampler,
        ranks,
        request,
        size,
        grammar_tokenizer,
        graph_buckets=graph_buckets,
        flash=flash,
    )
    logger.info(
        "Warmed up",
        extra={
            "fields": {
                "cache_tokens": (size.num_blocks - 1) * size.block_size,
                "cache_bytes": size.cache_bytes,
                "max_total_tokens": size.max_total_tokens,
                "seconds": round(time.monotonic() - started, 3),
            }
        },
    )
    return WarmEngine(engine, _response(size, loaded.weight_bytes, steps))


class _Probe:
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


def make_engine(
    loaded: LoadedModel,
    sampler: Sampler,
    ranks: RankGroup,
    request: pb.WarmupRequest,
    size: CacheSize,
    grammar_tokenizer: GrammarTokenizer = NOT_ASKED_FOR,
    *,
    graph_buckets: tuple[int, ...] = (),
    flash: FlashAttention | None = None,
) -> Engine:
    model = loaded.model
    limits = SlotLimits(
        num_slots=request.max_slots,
        max_total_tokens=size.max_total_tokens,
        num_blocks=size.num_blocks,
        block_size=size.block_size,
        vocab_size=model.config.vocab_size,
        sliding_windows=model.config.sliding_windows,
        is_encoder_decoder=model.config.decoder_start_token_id is not None,
        can_share_prefixes=model.cache_spec.recurrent is None,
    )
    cache = KVCache.allocate(
        _cache_spec(model, flash),
        num_blocks=size.num_blocks,
        block_size=size.block_size,
        max_total_tokens=size.max_total_tokens,
        num_slots=request.max_slots + 1,
    )
    slots = SequenceSlots(limits, model.cache_spec.device, flash)
    own_sampler = _own_sampler(sampler, ranks, model, slots)
    grammars = GrammarTable(grammar_tokenizer, request.max_slots)
    graphs = None
    if graph_buckets and can_be_recorded(model, limits):
        graphs = DecodeGraphs(
            model=model,
            cache=cache,
            slots=slots,
            sampler=own_sampler,
            grammars=grammars,
            buckets=graph_buckets,
            recorder=_graph_recorder(model.cache_spec.device),
            policy=graph_policy(model.cache_spec.device, ranks),
            ranks=ranks,
        )
        graphs.record_first()
    unused_blocks = None
    if model.cache_spec.device.type == "cpu":
        # Room for a sequence of any length.
        unused_blocks = UnusedBlocks(cache, num_ahead=size.max_total_tokens // size.block_size)
    return Engine(
        model=model,
        cache=cache,
        slots=slots,
        sampler=own_sampler,
        grammars=grammars,
        ranks=ranks,
        graphs=graphs,
        unused_blocks=unused_blocks,
    )


def _cache_spec(model: Model, flash: FlashAttention | None) -> KVCacheSpec:
    return replace(model.cache_spec, gathers_prompts=flash is not None)


def _prompt_shape(model: Model, ranks: RankGroup, request: pb.WarmupRequest) -> PromptShape:
    return PromptShape(
        spec=model.cache_spec,
        num_heads=model.config.total_num_heads // ranks.world_size,
        windows=model.config.sliding_windows,
        block_size=request.block_size,
        max_step_tokens=request.max_step_tokens,
    )


def _graph_recorder(device: torch.device) -> GraphRecorder:
    return CudaGraphRecorder(device) if device.type == "cuda" else CpuGraphRecorder()


def _own_sampler(
    sampler: Sampler, ranks: RankGroup, model: Model, slots: SequenceSlots
) -> TokenSampler:
    """What samples on this rank, its kernels compiled; all ranks call this at the same time."""
    sampler.compile_kernels(slots.scrap_rows())
    if ranks.world_size == 1:
        return sampler
    together = ParallelSampler(
        sampler, ranks, vocab_size=model.config.vocab_size, device=model.cache_spec.device
    )
    together.compile_kernels(slots.scrap_rows())
    return together


def _response(size: CacheSize, weight_bytes: int, steps: list[MeasuredStep]) -> pb.WarmupResponse:
    return pb.WarmupResponse(
        num_blocks=size.num_blocks,
        block_size=size.block_size,
        max_total_tokens=size.max_total_tokens,
        cache_bytes=size.cache_bytes,
        weight_bytes=weight_bytes,
        measured_tokens=[step.tokens for step in steps],
        measured_decodes=[step.decodes for step in steps],
        measured_ms=[step.milliseconds for step in steps],
    )
