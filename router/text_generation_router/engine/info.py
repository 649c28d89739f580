"""What the engine was asked to do and what it found that it can."""

from collections.abc import Collection
from dataclasses import dataclass

from text_generation_proto import shard_pb2

from text_generation_router.config import RouterConfig
from text_generation_router.scheduler.cost_model import CostSample
from text_generation_router.scheduler.limits import SchedulerLimits, sequence_capacity

_DEFAULT_MAX_STEP_TOKENS = 4096


class EngineStartError(Exception):
    """The engine cannot serve with these options; the text names the flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine's slice of the router's configuration; see there for what each means."""

    shard_uds_paths: tuple[str, ...]
    max_concurrent_requests: int = 128
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None
    max_batch_total_tokens: int | None = None
    max_batch_size: int | None = None
    target_step_ms: float = 100.0
    block_size: int = 16
    # Whether the shards prepare for grammars.
    enforces_grammars: bool = True
    # Seconds to wait for the shards' sockets; None waits for ever.
    connect_timeout: float | None = None
    # Seconds after which a step under way means that a shard hangs.
    step_timeout: float = 60.0
    # How often within ten minutes lost shards may be waited for; 0: never.
    max_restarts: int = 0
    # Seconds that restarted shards may take to be there.
    restart_timeout: float = 600.0

    @classmethod
    def from_router(cls, config: RouterConfig) -> "EngineConfig":
        return cls(
            shard_uds_paths=tuple(config.shard_uds_paths()),
            max_concurrent_requests=config.max_concurrent_requests,
            max_top_n_tokens=config.max_top_n_tokens,
            max_input_tokens=config.max_input_tokens,
            max_total_tokens=config.max_total_tokens,
            max_batch_prefill_tokens=config.max_batch_prefill_tokens,
            max_batch_total_tokens=config.max_batch_total_tokens,
            max_batch_size=config.max_batch_size,
            target_step_ms=config.target_step_ms,
            block_size=config.block_size,
            enforces_grammars=not config.disable_grammar_support,
            step_timeout=config.step_timeout,
            max_restarts=config.max_restarts,
            restart_timeout=config.restart_timeout,
        )

    @property
    def max_slots(self) -> int:
        return self.max_batch_size or self.max_concurrent_requests

    def max_step_tokens(self, max_position_embeddings: int) -> int:
        """Tokens of the largest step: room for every slot's decode and a block of prompt."""
        wanted = self.max_batch_prefill_tokens or min(
            _DEFAULT_MAX_STEP_TOKENS, max_position_embeddings
        )
        return max(wanted, self.max_slots + self.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Facts and limits after warmup."""

    model_type: str
    dtype: str
    device_type: str
    vocab_size: int
    world_size: int
    max_input_tokens: int
    max_total_tokens: int
    max_step_tokens: int
    max_batch_size: int
    max_concurrent_requests: int
    # Blocks of the cache, the scrap block included.
    num_blocks: int
    block_size: int
    # Bytes on each rank.
    cache_bytes: int
    weight_bytes: int
    # Why grammars cannot be enforced; empty if they can.
    grammar_refusal: str
    # What the decoder of an encoder-decoder begins with; its encoder reads the prompt. None for all
    # other models.
    decoder_start_token_id: int | None = None
    # Block tables of a sequence.
    num_tables: int = 1
    # Whether sequences may begin with tokens that another has computed.
    has_prefix_cache: bool = True

    @property
    def max_batch_total_tokens(self) -> int:
        """Tokens that the cache holds, all sequences together."""
        return (self.num_blocks - 1) * self.block_size


def warmup_request(
    config: EngineConfig, info: shard_pb2.InfoResponse, eos_token_ids: Collection[int]
) -> shard_pb2.WarmupRequest:
    """What the shards are to size themselves for. Raises `EngineStartError`."""
    longest = info.max_position_embeddings
    if config.max_total_tokens is not None and config.max_total_tokens > longest:
        raise EngineStartError(
            f"--max-total-tokens ({config.max_total_tokens}) is more than the {longest} positions "
            "that the model has"
        )
    return shard_pb2.WarmupRequest(
        max_slots=config.max_slots,
        max_step_tokens=config.max_step_tokens(longest),
        max_total_tokens=config.max_total_tokens or 0,
        block_size=config.block_size,
        max_cache_tokens=config.max_batch_total_tokens or 0,
        max_top_n_tokens=config.max_top_n_tokens,
        eos_token_ids=sorted(eos_token_ids) if config.enforces_grammars else [],
    )


def engine_info(
    config: EngineConfig,
    info: shard_pb2.InfoResponse,
    warmup: shard_pb2.WarmupResponse,
    eos_token_ids: Collection[int],
) -> EngineInfo:
    """The limits that follow from warmup. Raises `EngineStartError` if they contradict options."""
    if warmup.block_size != config.block_size:
        raise EngineStartError(
            f"the shards use blocks of {warmup.block_size} tokens, "
            f"--block-size asks for {config.block_size}"
        )
    is_encoder_decoder = info.HasField("decoder_start_token_id")
    num_tables = 2 if is_encoder_decoder else 1
    capacity = sequence_capacity(warmup.num_blocks, warmup.block_size, num_tables)
    if config.max_total_tokens is not None and config.max_total_tokens > capacity:
        raise EngineStartError(
            f"--max-total-tokens ({config.max_total_tokens}) does not fit: the cache holds "
            f"{capacity} tokens"
        )
    max_total_tokens = config.max_total_tokens or min(
        warmup.max_total_tokens, info.max_position_embeddings, capacity
    )
    max_input_tokens = config.max_input_tokens or max_total_tokens - 1
    if not 0 < max_input_tokens < max_total_tokens:
        raise EngineStartError(
            f"--max-input-tokens ({max_input_tokens}) must be less than --max-total-tokens "
            f"({max_total_tokens})"
        )
    return EngineInfo(
        model_type=info.model_type,
        dtype=info.dtype,
        device_type=info.device_type,
        vocab_size=info.vocab_size,
        world_size=info.world_size,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        max_step_tokens=config.max_step_tokens(info.max_position_embeddings),
        max_batch_size=config.max_slots,
        max_concurrent_requests=config.max_concurrent_requests,
        num_blocks=warmup.num_blocks,
        block_size=warmup.block_size,
        cache_bytes=warmup.cache_bytes,
        weight_bytes=warmup.weight_bytes,
        grammar_refusal=_grammar_refusal(config, warmup, eos_token_ids),
        num_tables=num_tables,
        decoder_start_token_id=info.decoder_start_token_id if is_encoder_decoder else None,
        has_prefix_cache=info.supports_prefix_cache,
    )


def _grammar_refusal(
    config: EngineConfig, warmup: shard_pb2.WarmupResponse, eos_token_ids: Collection[int]
) -> str:
    if not config.enforces_grammars:
        return "grammar support is disabled on this server"
    if not eos_token_ids:
        return "the model names no token that ends a sequence"
    return warmup.grammar_error


def scheduler_limits(config: EngineConfig, info: EngineInfo) -> SchedulerLimits:
    return SchedulerLimits(
        max_slots=info.max_batch_size,
        max_step_tokens=info.max_step_tokens,
        max_total_tokens=info.max_total_tokens,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        num_tables=info.num_tables,
        target_step_ms=config.target_step_ms,
        has_prefix_cache=info.has_prefix_cache,
    )


def warmup_samples(warmup: shard_pb2.WarmupResponse) -> list[CostSample]:
    """The steps that the shards measured, for the cost model."""
    return [
        CostSample(tokens - decodes, decodes, milliseconds)
        for tokens, decodes, milliseconds in zip(
            warmup.measured_tokens, warmup.measured_decodes, warmup.measured_ms, strict=True
        )
    ]
