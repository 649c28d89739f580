"""A Mamba against transformers' code for it: one prompt, and decoding one sequence.

    python -m benchmarks.state_space --prompt-tokens 512 --rounds 3

Random weights of the shape of Mamba 130M in float32. The engine runs without HTTP, in this process
and in turn with transformers, whose kernels need a GPU: on CPU it goes through tokens in Python.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import RankInfo, ShardConfig
from text_generation_shard.shard import Shard
from transformers import MambaConfig, MambaForCausalLM

ALONE = RankInfo(rank=0, world_size=1, master_addr="localhost", master_port=0)
SAMPLING = pb.SamplingParameters(temperature=1, top_p=1, typical_p=1, repetition_penalty=1)
BLOCK_SIZE = 16


class Engine:
    """One shard; a call is one prompt and then a number of single tokens."""

    def __init__(self, model_path: Path, max_tokens: int, num_threads: int) -> None:
        self._shard = Shard.load(
            ShardConfig(model_path=str(model_path), num_threads=num_threads), ALONE
        )
        self._shard.warm_up(
            pb.WarmupRequest(
                max_slots=1,
                max_step_tokens=max_tokens,
                max_total_tokens=max_tokens,
                block_size=BLOCK_SIZE,
            )
        )
        self._blocks = range(1, 1 + -(-max_tokens // BLOCK_SIZE))

    def __call__(self, token_ids: list[int], num_decodes: int) -> tuple[float, float]:
        """Seconds for the prompt, and for a decoded token."""
        self._shard.reset()
        admission = pb.Admission(token_ids=token_ids, sampling=SAMPLING, block_ids=self._blocks)
        prompt = pb.StepRequest(
            step=1, admissions=[admission], work_slots=[0], work_num_tokens=[len(token_ids)]
        )
        decode = pb.StepRequest(step=2, work_slots=[0], work_num_tokens=[1])
        prefill = _seconds(lambda: self._shard.step(prompt))
        return prefill, _median([lambda: self._shard.step(decode)] * num_decodes)


def transformers_seconds(
    model: MambaForCausalLM, token_ids: list[int], num_decodes: int
) -> tuple[float, float]:
    """As `Engine`, with transformers' cache of states."""
    prompt, token = torch.tensor([token_ids]), torch.tensor([[1]])
    started = time.perf_counter()
    cache = model(prompt, use_cache=True, logits_to_keep=1).cache_params
    prefill = time.perf_counter() - started
    decode = _median([lambda: model(token, cache_params=cache, use_cache=True)] * num_decodes)
    return prefill, decode


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _median(calls: list[Callable[[], object]]) -> float:
    return statistics.median(map(_seconds, calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decodes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    token_ids = [7 * index % 50280 for index in range(options.prompt_tokens)]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model = MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=24))
        model.train(mode=False)
        model.save_pretrained(folder)
        engine = Engine(Path(folder), options.prompt_tokens + options.decodes, options.threads)
        ratios = []
        for _ in range(options.rounds):
            ours = engine(token_ids, options.decodes)
            theirs = transformers_seconds(model, token_ids, options.decodes)
            ratios.append((theirs[0] / ours[0], theirs[1] / ours[1]))
            sys.stdout.write(
                f"prompt {ours[0] * 1e3:.0f} ms, transformers {theirs[0] * 1e3:.0f} ms; "
                f"token {ours[1] * 1e3:.1f} ms, transformers {theirs[1] * 1e3:.1f} ms\n"
            )
    prompt, token = (statistics.median(column) for column in zip(*ratios, strict=True))
    sys.stdout.write(f"times as fast: prompt {prompt:.1f}, token {token:.1f}\n")


if __name__ == "__main__":
    main()
