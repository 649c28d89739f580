"""From a loaded model to an engine: measure the worst steps, size the cache, allocate.

What the worst steps take is measured by running them (`warmup_probe`).
"""

import logging
import time
from dataclasses import dataclass, replace

import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.assembly import make_engine, served_cache_spec
from text_generation_shard.attention_choice import PromptShape, choose_attention
from text_generation_shard.cache_sizing import CacheBudget, CacheSize, size_cache
from text_generation_shard.config import AttentionName
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.grammar.tokenizer import NOT_ASKED_FOR, GrammarTokenizer
from text_generation_shard.models.loading import LoadedModel
from text_generation_shard.models.model import Model
from text_generation_shard.runner.graph_policy import buckets_for, graph_policy
from text_generation_shard.sampling.sampler import Sampler
from text_generation_shard.warmup_probe import MeasuredStep, WarmupProbe

logger = logging.getLogger(__name__)


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
    budget = replace(budget, spec=served_cache_spec(loaded.model, flash))
    probe = WarmupProbe(loaded, sampler, ranks, request, budget, flash)
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


def _prompt_shape(model: Model, ranks: RankGroup, request: pb.WarmupRequest) -> PromptShape:
    return PromptShape(
        spec=model.cache_spec,
        num_heads=model.config.total_num_heads // ranks.world_size,
        windows=model.config.sliding_windows,
        block_size=request.block_size,
        max_step_tokens=request.max_step_tokens,
    )


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
