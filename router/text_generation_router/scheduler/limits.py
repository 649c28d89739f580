"""The limits that the scheduler plans within."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Fixed after warmup. Raises ValueError if they contradict each other."""

    # Sequences that hold a slot at one time.
    max_slots: int
    # Tokens that one step computes, decodes included.
    max_step_tokens: int
    # Longest prompt plus output.
    max_total_tokens: int
    # Blocks of the cache, the scrap block included.
    num_blocks: int
    block_size: int
    # Block tables of a sequence: an encoder-decoder has a second one, of what its encoder read.
    num_tables: int = 1
    # Time that a step should take while somebody waits for a next token.
    target_step_ms: float
    # Whether a sequence may begin with blocks that another has filled. Not where the model keeps a
    # state that grows with no block; blocks then count tokens, and hold nothing.
    has_prefix_cache: bool = True

    def __post_init__(self) -> None:
        if self.max_step_tokens < self.max_slots + self.block_size:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must hold a decode of every slot and a "
                f"block of prompt: at least {self.max_slots + self.block_size}"
            )
        capacity = sequence_capacity(self.num_blocks, self.block_size, self.num_tables)
        if self.max_total_tokens > capacity:
            raise ValueError(
                f"max_total_tokens ({self.max_total_tokens}) does not fit into a cache of "
                f"{capacity} tokens"
            )


def sequence_capacity(num_blocks: int, block_size: int, num_tables: int) -> int:
    """Tokens of a sequence that fits into a cache for certain, however they are spread over its
    block tables: the last block of each may be all but empty. One block is scrap.
    """
    return max(0, num_blocks - num_tables) * block_size
