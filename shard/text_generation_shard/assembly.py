"""What an engine is put together from."""

from dataclasses import replace

import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.batch.slots import SequenceSlots, SlotLimits
from text_generation_shard.cache_sizing import CacheSize
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.grammar.tokenizer import NOT_ASKED_FOR, GrammarTokenizer
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.models.loading import LoadedModel
from text_generation_shard.models.model import Model
from text_generation_shard.ops.flash_attention import FlashAttention
from text_generation_shard.runner.cpu_graph import CpuGraphRecorder
from text_generation_shard.runner.cuda_graph import CudaGraphRecorder
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import can_be_recorded, graph_policy
from text_generation_shard.runner.step_graph import GraphRecorder
from text_generation_shard.sampling.parallel import ParallelSampler
from text_generation_shard.sampling.sampler import Sampler, TokenSampler
from text_generation_shard.unused_blocks import UnusedBlocks


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
    """Allocate what one rank computes steps with, and record its first decode graphs; all ranks
    call this at the same time. graph_buckets, flash: as in `DecodeGraphs` and `SequenceSlots`.
    """
    model = loaded.model
    limits = _slot_limits(model, request, size)
    cache = KVCache.allocate(
        served_cache_spec(model, flash),
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


def served_cache_spec(model: Model, flash: FlashAttention | None) -> KVCacheSpec:
    """What the model caches, and whether prompts are attended to by gathering it."""
    return replace(model.cache_spec, gathers_prompts=flash is not None)


def _slot_limits(model: Model, request: pb.WarmupRequest, size: CacheSize) -> SlotLimits:
    return SlotLimits(
        num_slots=request.max_slots,
        max_total_tokens=size.max_total_tokens,
        num_blocks=size.num_blocks,
        block_size=size.block_size,
        vocab_size=model.config.vocab_size,
        sliding_windows=model.config.sliding_windows,
        is_encoder_decoder=model.config.decoder_start_token_id is not None,
        can_share_prefixes=model.cache_spec.recurrent is None,
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
