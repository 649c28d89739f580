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
    # Time that a step should take while somebody waits for a next token.
    target_step_ms: float

    def __post_init__(self) -> None:
        if self.max_step_tokens < self.max_slots + self.block_size:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must hold a decode of every slot and a "
                f"block of prompt: at least {self.max_slots + self.block_size}"
            )
        capacity = (self.num_blocks - 1) * self.block_size
        if self.max_total_tokens > capacity:
            raise ValueError(
                f"max_total_tokens ({self.max_total_tokens}) does not fit into a cache of "
                f"{capacity} tokens"
            )
