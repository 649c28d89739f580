"""Which kernels attend to prompts on a GPU: our own, or those of others (`ops.flash_attention`).

Which is fastest depends on the GPU, on versions and on the model's heads. So they are measured
before serving, and their results held against ours: one that fails, or says something else, is not
taken. Decode rows are our own kernel's in any case, which alone reads the blocks of the cache.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from text_generation_shard.config import AttentionName
from text_generation_shard.errors import CapacityError
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.flash_attention import CUDNN, FlashAttention, flash_kernels
from text_generation_shard.ops.paged_attention import paged_attention, plan_attention
from text_generation_shard.ops.triton import library

logger = logging.getLogger(__name__)

# Of the prompt that is measured, at most.
_MAX_TOKENS = 8192
_REPETITIONS = 5
# What another kernel must gain, so that a measurement's noise chooses nothing.
_LEAST_GAIN = 0.03
# How far its results may lie from ours, relative to them and beyond: a few roundings to bfloat16.
_TOLERANCE = 0.02
_OURS = "Triton"
# What TGI calls its kernels; there are none of that name here.
_NAMES_OF_TGI = ("paged", "flashdecoding", "flashinfer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShape:
    """What a rank's layers attend to, and how much of it at one time."""

    spec: KVCacheSpec
    num_heads: int
    windows: Sequence[Window]
    block_size: int
    max_step_tokens: int

    @property
    def window(self) -> Window:
        """The widest one."""
        return None if None in self.windows else self.windows[0]


def choose_attention(name: AttentionName, shape: PromptShape) -> FlashAttention | None:
    """What --attention asks for; None: our own kernel, or on CPU our own operators. CapacityError
    where what is asked for by name cannot be.
    """
    if name in _NAMES_OF_TGI:
        logger.warning("--attention %s: TGI's kernels are not part of this server; auto", name)
        name = "auto"
    if not library.takes(torch.empty(0, device=shape.spec.device)):
        if name != "auto":
            raise CapacityError(f"--attention {name}: only with a GPU and Triton is there a choice")
        return None
    if name == "triton" or shape.spec.num_layers == 0:
        return None
    if name == "auto":
        return _fastest(shape)
    return _asked_for(name, shape)


def _fastest(shape: PromptShape) -> FlashAttention | None:
    """By time; our own where no other is clearly faster."""
    trial = PromptTrial(shape)
    times = {_OURS: trial.milliseconds(None)}
    best: FlashAttention | None = None
    for kernel in (*flash_kernels(), CUDNN):
        if (obstacle := trial.obstacle(kernel)) is not None:
            logger.info("Attention to prompts is not %s's: %s", kernel.name, obstacle)
            continue
        times[kernel.name] = trial.milliseconds(kernel)
        least = times[_OURS if best is None else best.name]
        if times[kernel.name] < least * (1 if best else 1 - _LEAST_GAIN):
            best = kernel
    fields = {name: round(milliseconds, 3) for name, milliseconds in times.items()}
    chosen = _OURS if best is None else best.name
    extra = {"fields": {"tokens": trial.num_tokens, "milliseconds": fields, "chosen": chosen}}
    logger.info("Measured attention to prompts", extra=extra)
    return best


def _asked_for(name: AttentionName, shape: PromptShape) -> FlashAttention:
    """The first that works of those that the name means."""
    trial, obstacles = PromptTrial(shape), []
    for kernel in (CUDNN,) if name == "cudnn" else flash_kernels():
        if (obstacle := trial.obstacle(kernel)) is None:
            logger.info("Attention to prompts is %s's", kernel.name)
            return replace(kernel, is_required=True)
        obstacles.append(f"{kernel.name}: {obstacle}")
    raise CapacityError(f"--attention {name} is not possible here ({'; '.join(obstacles)})")


class PromptTrial:
    """Attention of one layer to a prompt of random numbers."""

    def __init__(self, shape: PromptShape) -> None:
        spec = replace(shape.spec, num_layers=1, gathers_prompts=True, recurrent=None)
        self.num_tokens = min(_MAX_TOKENS, shape.max_step_tokens)
        num_blocks = -(-self.num_tokens // shape.block_size)
        self._window, self._block_size = shape.window, shape.block_size
        self._cache = KVCache.allocate(
            spec,
            num_blocks=num_blocks + 1,
            block_size=shape.block_size,
            max_total_tokens=self.num_tokens,
            num_slots=0,
        ).layers[0]
        generator = torch.Generator(spec.device).manual_seed(0)
        for tensor in {self._cache.keys, self._cache.values}:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, device=spec.device))
        self._query = torch.randn(
            self.num_tokens,
            shape.num_heads,
            spec.head_dim,
            generator=generator,
            device=spec.device,
        ).to(spec.dtype)
        self._tables = torch.arange(1, num_blocks + 1, dtype=torch.int32, device=spec.device)[None]
        self._expected = self._attend(None)

    def obstacle(self, kernel: FlashAttention) -> str | None:
        """Why it is not to be used; None if it is."""
        caches = (self._cache.keys, self._cache.values)
        if (obstacle := kernel.obstacle(*caches, self._window, None, ())) is not None:
            return obstacle
        try:
            differences = (self._attend(kernel) - self._expected).float().abs()
            excess = (differences - _TOLERANCE * self._expected.float().abs()).max().item()
        except Exception as error:  # noqa: BLE001  whatever others' code raises where it cannot
            return " ".join(str(error).split()) or type(error).__name__
        if not excess <= _TOLERANCE:  # NaN is not, either
            return f"its results differ from ours by {differences.max().item():.3g}"
        return None

    def milliseconds(self, kernel: FlashAttention | None) -> float:
        """The least of several runs, none of a length that was there before, as prompts are: cuDNN
        plans for each anew, which takes far longer than to attend.
        """
        least = min(2, self.num_tokens)
        lengths = (max(least, self.num_tokens - 1 - run) for run in range(_REPETITIONS))
        return min(self._time(partial(self._attend, kernel, length)) for length in lengths)

    def _attend(self, kernel: FlashAttention | None, num_tokens: int | None = None) -> Tensor:
        """To so many tokens; None: to all."""
        query = self._query[:num_tokens]
        plan = plan_attention(
            block_tables=self._tables,
            query_lengths=[len(query)],
            context_lengths=[len(query)],
            block_size=self._block_size,
            sliding_window=self._window,
            flash_attention=kernel,
        )
        caches = (self._cache.keys, self._cache.values)
        scale = self._query.shape[-1] ** -0.5
        return paged_attention(query, *caches, plan, self._cache.workspace, scale=scale)

    def _time(self, compute: Callable[[], Tensor]) -> float:
        self._wait()
        started = time.perf_counter()
        compute()
        self._wait()
        return (time.perf_counter() - started) * 1000

    def _wait(self) -> None:
        if self._query.is_cuda:
            torch.cuda.synchronize(self._query.device)
