"""Trains the demonstration model from scratch on the generated corpus.

    python -m text_generation_demo.train --steps 3000 --checkpoint /tmp/demo-checkpoint.pt

Every document starts at position 0 in a row of its own, as a request does when it is served. The
matrices of the layers are trained with Muon, all else with AdamW; the exported weights are a
running average.

Each process computes with one thread on its share of every step, and the gradients are added up
once per step: on a busy machine that wastes far less than threads that wait for each other in
every operation.
"""

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
from tokenizers import Tokenizer
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from transformers import LlamaForCausalLM

from text_generation_demo import MODEL_DIR
from text_generation_demo.architecture import model_config
from text_generation_demo.corpus.document import Document
from text_generation_demo.corpus.mixture import documents
from text_generation_demo.corpus.split import Split
from text_generation_demo.encoding import Batch, DocumentEncoder

VALIDATION_SEED = 987
NUM_VALIDATION_DOCUMENTS = 150
REPORT_EVERY = 25


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """`minutes` may end it before `steps` do; the learning rate follows the nearer end.

    A resumed training begins with the averaged weights of a checkpoint, at `first_progress` of the
    learning rate schedule.
    """

    checkpoint: Path
    steps: int
    minutes: float | None
    documents_per_step: int
    num_processes: int
    seed: int
    resume: Path | None
    first_progress: float
    max_batch_tokens: int = 2560
    muon_learning_rate: float = 4e-3
    adam_learning_rate: float = 3e-3
    warmup: float = 0.02
    average_decay: float = 0.99
    checkpoint_every: int = 200


class Optimizers:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""

    def __init__(self, model: LlamaForCausalLM, config: TrainingConfig) -> None:
        matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        muon = torch.optim.Muon(
            matrices,
            lr=config.muon_learning_rate,
            weight_decay=0.05,
            adjust_lr_fn="match_rms_adamw",
        )
        adam = torch.optim.AdamW(
            others, lr=config.adam_learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self._rates = ((muon, config.muon_learning_rate), (adam, config.adam_learning_rate))

    def step(self, rate_factor: float) -> None:
        for optimizer, rate in self._rates:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_factor
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)


class RunningAverage:
    """An exponential average of the weights, better than the last ones while the rate is high."""

    def __init__(self, model: LlamaForCausalLM, decay: float) -> None:
        self._decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model: LlamaForCausalLM, step: int) -> None:
        keep = min(self._decay, step / (step + 10))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter.detach(), 1 - keep)


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The sum over all tokens of weight times cross entropy: [], float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    targets = batch.ids[:, 1:].reshape(-1)
    losses = functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
    return (losses * batch.weights[:, 1:].reshape(-1)).sum()


def rate_factor(progress: float, warmup: float) -> float:
    """Linear warmup, then half a cosine down to 2 percent."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Trainer:
    """Owns model, optimizers and average for the time of one training; one per process.

    All processes draw the same documents and hold the same weights after every step.
    """

    def __init__(self, config: TrainingConfig, tokenizer: Tokenizer, rank: int) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self._rank = rank
        self._encoder = DocumentEncoder(tokenizer)
        self._model = LlamaForCausalLM(model_config(tokenizer))
        self._model.set_attn_implementation("eager")  # faster here: most rows are short
        if config.resume is not None:
            self._model.load_state_dict(
                torch.load(config.resume, weights_only=True)["average"], strict=False
            )
        self._optimizers = Optimizers(self._model, config)
        self._average = RunningAverage(self._model, config.average_decay)
        self._started = time.monotonic()
        self._num_tokens = 0

    def run(self) -> None:
        stream = documents(self._config.seed, Split.TRAIN)
        for step in itertools.count(1):
            progress = self._progress(step)
            loss = self._step(stream, rate_factor(progress, self._config.warmup))
            self._average.update(self._model, step)
            is_last = progress >= 1
            if self._rank == 0 and (step % REPORT_EVERY == 0 or is_last):
                self._report(step, loss)
            if self._rank == 0 and (step % self._config.checkpoint_every == 0 or is_last):
                self._save(step)
            if is_last:
                return

    def _progress(self, step: int) -> float:
        minutes = (time.monotonic() - self._started) / 60
        by_time = minutes / self._config.minutes if self._config.minutes else 0.0
        done = torch.tensor(min(max(step / self._config.steps, by_time), 1.0))
        torch.distributed.broadcast(done, src=0)
        return self._config.first_progress + (1 - self._config.first_progress) * float(done)

    def _step(self, stream: Iterator[Document], factor: float) -> float:
        chosen = itertools.islice(stream, self._config.documents_per_step)
        batches = list(self._encoder.batches(chosen, self._config.max_batch_tokens))
        total_weight = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        total_loss = 0.0
        for batch in batches[self._rank :: self._config.num_processes]:
            loss = weighted_loss(self._model, batch) / total_weight
            loss.backward()  # type: ignore[no-untyped-call]
            total_loss += float(loss.detach())
        self._num_tokens += sum(batch.ids.numel() for batch in batches)
        total_loss = self._add_up_gradients(total_loss)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizers.step(factor)
        return total_loss

    def _add_up_gradients(self, loss: float) -> float:
        """Sums the gradients of all processes in place, and returns the sum of their losses."""
        gradients = [
            p.grad if p.grad is not None else torch.zeros_like(p) for p in self._model.parameters()
        ]
        flat = torch.cat([torch.tensor([loss]), *(gradient.flatten() for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        parts = torch.split(flat[1:], sizes)
        for parameter, part in zip(self._model.parameters(), parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return float(flat[0])

    def _report(self, step: int, loss: float) -> None:
        seconds = time.monotonic() - self._started
        print(
            f"step {step} loss {loss:.4f} tokens {self._num_tokens} "
            f"({self._num_tokens / seconds:.0f}/s) after {seconds:.0f} s",
            flush=True,
        )

    @torch.no_grad()
    def _validation_loss(self, split: Split) -> float:
        """Mean loss of the answer tokens, for the current weights and not the average."""
        chosen = itertools.islice(documents(VALIDATION_SEED, split), NUM_VALIDATION_DOCUMENTS)
        total_loss = total_weight = 0.0
        for batch in self._encoder.batches(chosen, self._config.max_batch_tokens):
            answers = Batch(batch.ids, (batch.weights == 1.0).float())
            total_loss += float(weighted_loss(self._model, answers))
            total_weight += float(answers.weights[:, 1:].sum())
        return total_loss / total_weight

    def _save(self, step: int) -> None:
        train, held_out = (self._validation_loss(split) for split in (Split.TRAIN, Split.HELD_OUT))
        print(f"step {step} answer loss: train {train:.4f} held-out {held_out:.4f}", flush=True)
        content = {"step": step, "average": self._average.weights}
        partial = self._config.checkpoint.with_suffix(".partial")
        torch.save(content, partial)
        partial.replace(self._config.checkpoint)


def run_process(rank: int, config: TrainingConfig) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{config.checkpoint}.rendezvous",
        rank=rank,
        world_size=config.num_processes,
    )
    Trainer(config, Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")), rank).run()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--documents-per-step", type=int, default=80)
    parser.add_argument("--num-processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="a checkpoint to begin with")
    parser.add_argument("--first-progress", type=float, default=0.0)
    config = TrainingConfig(**vars(parser.parse_args()))
    Path(f"{config.checkpoint}.rendezvous").unlink(missing_ok=True)
    spawn(run_process, (config,), nprocs=config.num_processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
