"""A rank's model from its directory to a running engine.

All methods but `info` are called on the compute thread.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from text_generation_proto import shard_pb2 as pb

from text_generation_shard import cuda_memory
from text_generation_shard.config import AttentionName, RankInfo, ShardConfig, asks_for_gpu
from text_generation_shard.cores import pin_this_thread
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.errors import CapacityError, ProtocolError
from text_generation_shard.grammar.tokenizer import (
    NOT_ASKED_FOR,
    GrammarTokenizer,
    load_grammar_tokenizer,
)
from text_generation_shard.host import (
    host_share,
    local_rank,
    ranks_on_host,
    return_free_memory,
)
from text_generation_shard.models import loading
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.loading import LoadedModel, load_model
from text_generation_shard.models.registry import has_family
from text_generation_shard.ops.threads import use_threads
from text_generation_shard.ops.triton import library
from text_generation_shard.precision import choose_cache_dtype, choose_precision
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import graph_buckets
from text_generation_shard.sampling.sampler import Sampler
from text_generation_shard.warmup import warm_up

logger = logging.getLogger(__name__)

# Share of the memory that is free which the KV cache may take on CPU: others live here too.
_CPU_MEMORY_SHARE = 0.6


class Shard:
    """Owns the model of this rank and, after warmup, the engine."""

    def __init__(
        self,
        *,
        model_path: Path,
        loaded: LoadedModel,
        dtype_name: str,
        sampler: Sampler,
        ranks: RankGroup,
        available_memory: "AvailableMemory",
        graph_buckets: tuple[int, ...] = (),
        has_fast_sums: bool = True,
        attention: AttentionName = "auto",
    ) -> None:
        self._model_path = model_path
        self._loaded = loaded
        self._dtype_name = dtype_name
        self._sampler = sampler
        self._ranks = ranks
        self._available_memory = available_memory
        self._graph_buckets = graph_buckets
        self._has_fast_sums = has_fast_sums
        self._attention = attention
        self._engine: Engine | None = None

    @classmethod
    def load(cls, config: ShardConfig, info: RankInfo) -> "Shard":
        """Read configuration and weights and join the other ranks."""
        model_path = Path(config.model_path)
        model_config = _model_config(config, model_path)
        device = _device(info)
        _check_device(config, device)
        num_ranks = ranks_on_host(info.world_size)
        share = host_share(num_ranks=num_ranks, num_threads=config.num_threads)
        if device.type == "cpu":
            pin_this_thread(local_rank(info.rank, num_ranks), num_ranks)
        use_threads(share.num_threads, device)
        precision = choose_precision(
            config, model_config.dtype, device, is_generic=not has_family(model_config)
        )
        logger.info(
            "Loading model",
            extra={
                "fields": {
                    "model_type": model_config.model_type,
                    "dtype": str(precision.arithmetic).removeprefix("torch."),
                    "weights": precision.storage.name,
                    "device": str(device),
                    "threads": share.num_threads,
                    "rank": info.rank,
                    "world_size": info.world_size,
                }
            },
        )
        ranks = RankGroup.join(info, device)
        loaded = load_model(
            model_path,
            model_config,
            ranks,
            dtype=precision.arithmetic,
            device=device,
            storage=precision.storage,
            cache_dtype=choose_cache_dtype(config, precision, device),
        )
        # Of 400 million weights, reading and packing leave 200 MB and more.
        return_free_memory()
        sampler = Sampler(
            vocab_size=model_config.vocab_size,
            watermark_gamma=config.watermark_gamma,
            watermark_delta=config.watermark_delta,
        )
        memory = AvailableMemory(device, num_ranks, config.cuda_memory_fraction)
        return cls(
            model_path=model_path,
            loaded=loaded,
            dtype_name=precision.dtype_name,
            sampler=sampler,
            ranks=ranks,
            available_memory=memory,
            graph_buckets=graph_buckets(config.cuda_graphs, ranks, device),
            has_fast_sums=config.all_reduce == "auto",
            attention=config.attention,
        )

    def info(self) -> pb.InfoResponse:
        """Facts about the model."""
        model = self._loaded.model
        return pb.InfoResponse(
            model_type=model.config.model_type,
            dtype=self._dtype_name,
            device_type=model.cache_spec.device.type,
            vocab_size=model.config.vocab_size,
            max_position_embeddings=model.config.max_position_embeddings,
            world_size=self._ranks.world_size,
            rank=self._ranks.rank,
            decoder_start_token_id=model.config.decoder_start_token_id,
            supports_prefix_cache=model.cache_spec.recurrent is None,
        )

    @property
    def is_warm(self) -> bool:
        """Whether steps can be computed."""
        return self._engine is not None

    def warm_up(self, request: pb.WarmupRequest) -> pb.WarmupResponse:
        """Make the engine; a second call makes a new one."""
        self._engine = None
        if self._has_fast_sums:
            # Before memory is measured: the buffer is part of what is taken.
            config, spec = self._loaded.model.config, self._loaded.model.cache_spec
            row_bytes = config.hidden_size * spec.dtype.itemsize
            self._ranks.use_fast_sums(spec.device, max_bytes=request.max_slots * row_bytes)
        grammar_tokenizer = self._grammar_tokenizer(request)
        warm = warm_up(
            self._loaded,
            self._sampler,
            self._ranks,
            request,
            available_bytes=self._available_memory.measure(),
            grammar_tokenizer=grammar_tokenizer,
            graph_buckets=self._graph_buckets,
            attention=self._attention,
        )
        self._engine = warm.engine
        if self._ranks.rank == 0 and request.eos_token_ids:
            warm.response.grammar_error = grammar_tokenizer.error
        return warm.response

    def reset(self) -> None:
        """A new step stream begins."""
        self._warm_engine().reset()

    @property
    def computes_ahead(self) -> bool:
        """Whether a step may begin before the one before it is done: the device computes alone."""
        return self._loaded.model.cache_spec.device.type == "cuda"

    def step(self, request: pb.StepRequest) -> pb.StepResult:
        """Compute one step, see `Engine.step`."""
        return self._warm_engine().step(request)

    def begin(self, request: pb.StepRequest) -> Callable[[], pb.StepResult]:
        """Launch one step, see `Engine.begin`."""
        return self._warm_engine().begin(request)

    def work_while_idle(self) -> bool:
        """What can wait until no step is asked for; whether there is more of it."""
        return self._engine is not None and self._engine.work_while_idle()

    @property
    def graphs(self) -> DecodeGraphs | None:
        """Of the warm engine, see `Engine.graphs`."""
        return self._warm_engine().graphs

    def close(self) -> None:
        """Leave the other ranks. Graphs go before the collectives that they hold."""
        self._engine = None
        self._ranks.leave()

    def _grammar_tokenizer(self, request: pb.WarmupRequest) -> GrammarTokenizer:
        """For the rank that samples, if there will be grammars. Made before serving begins: it
        would hold up every stream.
        """
        if self._ranks.rank > 0:
            return NOT_ASKED_FOR
        return load_grammar_tokenizer(
            self._model_path,
            vocab_size=self._loaded.model.config.vocab_size,
            eos_token_ids=request.eos_token_ids,
        )

    def _warm_engine(self) -> Engine:
        if self._engine is None:
            raise ProtocolError("a step before Warmup")
        return self._engine


class AvailableMemory:
    """How much memory this rank may still take."""

    def __init__(self, device: torch.device, num_ranks: int, cuda_memory_fraction: float) -> None:
        self._device = device
        self._num_ranks = num_ranks
        self._cuda_memory_fraction = cuda_memory_fraction

    def measure(self) -> int:
        """Bytes."""
        if self._device.type == "cuda":
            return cuda_memory.available_bytes(self._device, self._cuda_memory_fraction)
        share = host_share(num_ranks=self._num_ranks, num_threads=None)
        return int(share.memory_bytes * _CPU_MEMORY_SHARE)


def _model_config(config: ShardConfig, model_path: Path) -> ModelConfig:
    """The checkpoint's configuration with the flags' RoPE scaling."""
    model_config = loading.model_config(model_path, trust_remote_code=config.trust_remote_code)
    if config.rope_scaling is None and config.rope_factor is None:
        return model_config
    factor = 1.0 if config.rope_factor is None else config.rope_factor
    return model_config.with_rope(config.rope_scaling or "linear", factor)


def _check_device(config: ShardConfig, device: torch.device) -> None:
    """Refuse what would be without effect on this device; CapacityError."""
    if device.type != "cpu" or library.takes(torch.empty(0)):  # kernels that are interpreted
        return
    if (asked := asks_for_gpu(config)) is not None:
        raise CapacityError(f"{asked}: there is no GPU here")


def _device(info: RankInfo) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = local_rank(info.rank, ranks_on_host(info.world_size))
    device = torch.device("cuda", place % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
