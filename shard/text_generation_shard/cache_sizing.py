"""How many blocks the KV cache gets, and how long a sequence may become."""

from dataclasses import dataclass

from text_generation_proto import shard_pb2 as pb

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError
from text_generation_shard.kv_cache import KVCacheSpec
from text_generation_shard.models.model import Model

# Running sequences can fill the cache once, at worst; this much more, in percent, keeps prefixes of
# finished ones even then.
_PREFIX_HEADROOM = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """The result. num_blocks counts the scrap block."""

    num_blocks: int
    block_size: int
    max_total_tokens: int
    cache_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBudget:
    """What was asked for, and what there is for it."""

    spec: KVCacheSpec
    block_size: int
    max_slots: int
    # Longest sequence asked for, or that the model allows.
    max_total_tokens: int
    # Whether max_total_tokens was asked for; otherwise it shrinks to what the cache holds.
    is_total_fixed: bool
    # Size of the cache that was asked for; None: what fits.
    max_cache_tokens: int | None
    available_bytes: int
    # Block tables of a sequence, each of which may end in a block that is all but empty.
    num_tables: int = 1

    @classmethod
    def of_request(
        cls, request: pb.WarmupRequest, model: Model, available_bytes: int
    ) -> "CacheBudget":
        """Check a WarmupRequest against the model; CapacityError names the flag."""
        if not (request.max_slots and request.max_step_tokens and request.block_size):
            raise CapacityError("warmup: max_slots, max_step_tokens and block_size must be set")
        longest = model.config.max_position_embeddings
        if request.max_total_tokens > longest:
            raise CapacityError(
                f"--max-total-tokens ({request.max_total_tokens}) is more than the model's "
                f"positions allow ({longest})"
            )
        return cls(
            spec=model.cache_spec,
            block_size=request.block_size,
            max_slots=request.max_slots,
            max_total_tokens=request.max_total_tokens
            or model.config.default_total_tokens
            or longest,
            is_total_fixed=request.max_total_tokens > 0,
            max_cache_tokens=request.max_cache_tokens or None,
            available_bytes=available_bytes,
            num_tables=1 if model.config.decoder_start_token_id is None else 2,
        )


def size_cache(budget: CacheBudget, *, activation_bytes: int, ranks: RankGroup) -> CacheSize:
    """The cache that fits, the same on every rank: the smallest that any of them can hold.

    activation_bytes: memory that a step needs beside the cache. CapacityError if the cache asked
    for, or one sequence of the length asked for, does not fit.
    """
    block_bytes = budget.block_size * budget.spec.token_bytes
    workspace = budget.spec.workspace_bytes(budget.max_total_tokens)
    states = budget.spec.slots_bytes(budget.max_slots + 1)  # and the scrap slot
    room = budget.available_bytes - activation_bytes - workspace - states
    if states and ranks.minimum(room) < 0:
        raise CapacityError(
            f"the recurrent states of {budget.max_slots} sequences need {_mib(states)} MiB, but "
            f"there is room for {_mib(room + states)} MiB: lower --max-batch-size or "
            "--max-concurrent-requests, or free memory"
        )
    wanted = _wanted_blocks(budget) + 1
    # Blocks that hold nothing (no layer has keys and values) only count tokens.
    fitting = ranks.minimum(max(0, room // block_bytes)) if block_bytes else wanted
    if budget.max_cache_tokens is not None and fitting < wanted:
        raise CapacityError(
            f"--max-batch-total-tokens ({budget.max_cache_tokens}) needs "
            f"{_mib(wanted * block_bytes)} MiB of KV cache, but there is room for "
            f"{_mib(room)} MiB ({fitting * budget.block_size} tokens)"
        )
    num_blocks = min(fitting, wanted)
    held = (num_blocks - budget.num_tables) * budget.block_size
    if held < 1 or (budget.is_total_fixed and held < budget.max_total_tokens):
        raise CapacityError(
            f"a KV cache of {max(0, held)} tokens does not hold one sequence of "
            f"{budget.max_total_tokens} tokens: lower --max-total-tokens or "
            "--max-batch-prefill-tokens, raise --max-batch-total-tokens, or free memory "
            f"(room for the cache: {_mib(room)} MiB)"
        )
    return CacheSize(
        num_blocks=num_blocks,
        block_size=budget.block_size,
        max_total_tokens=min(budget.max_total_tokens, held),
        cache_bytes=num_blocks * block_bytes + states,
    )


def _wanted_blocks(budget: CacheBudget) -> int:
    """Blocks for sequences, the scrap block not counted."""
    if budget.max_cache_tokens is not None:
        return budget.max_cache_tokens // budget.block_size
    blocks_per_sequence = -(-budget.max_total_tokens // budget.block_size)
    blocks_per_sequence += budget.num_tables - 1
    headroom = _PREFIX_HEADROOM if budget.spec.recurrent is None else 0
    return budget.max_slots * blocks_per_sequence * (100 + headroom) // 100


def _mib(num_bytes: int) -> int:
    return max(0, num_bytes) >> 20
