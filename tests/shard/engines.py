"""Engines of one rank in this process, as the server makes them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import RankInfo, ShardConfig
from text_generation_shard.sampling.sampler import SampledTokens, Sampler
from text_generation_shard.shard import Shard
from torch import Tensor

ALONE = RankInfo(rank=0, world_size=1, master_addr="localhost", master_port=0)
BLOCK_SIZE = 4


class RecordingSampler(Sampler):
    """Keeps the logits that it was given, one [rows, vocab] per step."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size=vocab_size, watermark_gamma=0.5, watermark_delta=2.0)
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor, rows: Any, top_n: Sequence[int] = ()) -> SampledTokens:
        self.logits.append(logits.cpu().clone())
        return super().__call__(logits, rows, top_n)


def warmup_request(**settings: Any) -> pb.WarmupRequest:
    return pb.WarmupRequest(
        **{
            "max_slots": 40,
            "max_step_tokens": 256,
            "block_size": BLOCK_SIZE,
            "max_total_tokens": 160,
            **settings,
        }
    )


@contextlib.contextmanager
def running_shard(path: Path, *, warmup: Any = None, **settings: Any) -> Iterator[Shard]:
    num_threads = torch.get_num_threads()
    config = ShardConfig(model_path=str(path), num_threads=1, **settings)
    with torch.inference_mode():
        shard = Shard.load(config, ALONE)
        shard.warm_up(warmup_request() if warmup is None else warmup)
        yield shard
    shard.close()
    torch.set_num_threads(num_threads)


def record(shard: Shard) -> RecordingSampler:
    """From now on, keep what the shard's sampler sees: of all steps, so that none is replayed."""
    assert shard._engine is not None
    shard._engine._graphs = None
    sampler = RecordingSampler(shard.info().vocab_size)
    shard._engine._sampler = sampler
    return sampler
