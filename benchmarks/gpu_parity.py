"""What the engine writes on the GPU, judged by the engine on the CPU in float32.

    python -m benchmarks.gpu_parity TEXTS.json MARGINS.json    (the CPU's half)

The GPU continues texts of the demonstration model, which is trained: its choices mean something.
Graphs, kernels and sampling are those of the server. The CPU reads what was written and says, token
by token, how much more likely its own choice was: 0 where both chose the same. Rounding may decide
between two tokens that are nearly equal; nothing else may.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import DtypeName, RankInfo, ShardConfig
from text_generation_shard.ops.cpu import library
from text_generation_shard.shard import Shard
from tokenizers import Tokenizer

from benchmarks.gpu_rows import GpuRow
from benchmarks.storage import held_out_texts

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "demo" / "text_generation_demo" / "model"
ALONE = RankInfo(rank=0, world_size=1, master_addr="localhost", master_port=0)
BLOCK_SIZE = 16
NUM_TEXTS, PROMPT_TOKENS, NEW_TOKENS = 24, 24, 88
NUM_TOKENS = PROMPT_TOKENS + NEW_TOKENS
# Then the graphs that the server records in a pause are recorded, and compute the rest.
STEPS_BEFORE_GRAPHS = 4
NUM_BLOCKS = -(-NUM_TOKENS // BLOCK_SIZE)
GREEDY = pb.SamplingParameters(temperature=1, top_p=1, typical_p=1, repetition_penalty=1)
# The greatest difference of log-probabilities that rounding explains. bfloat16 has 8 bits: a score
# of 16 to 32, as these are, is rounded by up to 2^-4, and so is the one it is compared with.
DTYPES: dict[DtypeName, float] = {"float32": 1e-3, "bfloat16": 0.125}


def measure_parity(folder: Path) -> Iterator[GpuRow]:
    """By type: how many tokens are the CPU's own choice, and the worst of the others."""
    texts, margins = folder / "parity-texts.json", folder / "parity-margins.json"
    prompts = sample_prompts()
    texts.write_text(json.dumps([text for dtype in DTYPES for text in continued(prompts, dtype)]))
    command = [sys.executable, "-m", "benchmarks.gpu_parity", str(texts), str(margins)]
    subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    found: list[list[float]] = json.loads(margins.read_text())
    for index, (dtype, bound) in enumerate(DTYPES.items()):
        of_dtype = found[index * NUM_TEXTS : (index + 1) * NUM_TEXTS]
        values = list(itertools.chain.from_iterable(of_dtype))
        yield from parity_rows(dtype, bound, values)


def parity_rows(dtype: str, bound: float, margins: list[float]) -> Iterator[GpuRow]:
    """margins: of every token."""
    equal = sum(margin == 0 for margin in margins)
    name = f"{dtype}: greedy tokens that float32 on the CPU chooses, of {len(margins)}"
    yield GpuRow(part="parity", name=name, value=equal, share=equal / len(margins))
    name = f"{dtype}: the worst token is less likely than the best by"
    yield GpuRow(part="parity", name=name, value=max(margins), unit="nats", at_most=bound)


def sample_prompts() -> list[list[int]]:
    """The beginnings of texts, as token ids."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = (text for text in held_out_texts(tokenizer, 20 * NUM_TEXTS))
    return [text[:PROMPT_TOKENS] for text in texts if len(text) > PROMPT_TOKENS][:NUM_TEXTS]


def continued(prompts: list[list[int]], dtype: DtypeName) -> list[list[int]]:
    """Prompts, all in one batch, with NEW_TOKENS greedy tokens each."""
    texts = [list(prompt) for prompt in prompts]
    with torch.inference_mode():
        shard = _shard(dtype)
        request = pb.StepRequest(step=1)
        for slot, prompt in enumerate(prompts):
            _admit(request, slot, prompt)
        for step in range(1, NEW_TOKENS + 1):
            result = shard.step(request)
            for text, token in zip(texts, result.token_ids, strict=True):
                text.append(token)
            if step == STEPS_BEFORE_GRAPHS:
                while shard.work_while_idle():
                    pass
            count = len(prompts)
            request = pb.StepRequest(
                step=step + 1, work_slots=range(count), work_num_tokens=[1] * count
            )
        shard.close()
    return texts


def margins_of(texts: list[list[int]]) -> list[list[float]]:
    """Per text, of every token after its prompt: how much more likely the best one was, in nats."""
    with torch.inference_mode():
        shard = _shard("float32")
        found = []
        for step, text in enumerate(texts, start=1):
            shard.reset()
            request = pb.StepRequest(step=step)
            _admit(request, 0, text, prompt_logprobs=True, top_n_tokens=1)
            (report,) = shard.step(request).prompt_logprobs
            pairs = zip(report.top_n_logprobs, report.logprobs, strict=True)
            margins = [best - own for best, own in pairs]
            found.append(margins[PROMPT_TOKENS - report.first_position :])
        shard.close()
    return found


def _shard(dtype: DtypeName) -> Shard:
    shard = Shard.load(ShardConfig(model_path=str(MODEL), dtype=dtype), ALONE)
    shard.warm_up(
        pb.WarmupRequest(
            max_slots=NUM_TEXTS,
            max_step_tokens=NUM_TEXTS * PROMPT_TOKENS,
            block_size=BLOCK_SIZE,
            max_total_tokens=NUM_TOKENS,
        )
    )
    return shard


def _admit(
    request: pb.StepRequest,
    slot: int,
    token_ids: list[int],
    *,
    prompt_logprobs: bool = False,
    top_n_tokens: int = 0,
) -> None:
    """Add a sequence, and the work that reads it."""
    first = 1 + slot * NUM_BLOCKS
    request.admissions.append(
        pb.Admission(
            slot=slot,
            sequence_id=slot,
            token_ids=token_ids,
            block_ids=range(first, first + NUM_BLOCKS),
            sampling=GREEDY,
            prompt_logprobs=prompt_logprobs,
            top_n_tokens=top_n_tokens,
        )
    )
    request.work_slots.append(slot)
    request.work_num_tokens.append(len(token_ids))


def main() -> None:
    texts, margins = map(Path, sys.argv[1:])
    # By torch alone: the C++ operators would have to be built first, which takes longer than this.
    with patch.object(library, "operators", lambda: None):
        margins.write_text(json.dumps(margins_of(json.loads(texts.read_text()))))


if __name__ == "__main__":
    main()
