"""Trains the demonstration model from scratch on the generated corpus.

    python -m text_generation_demo.train --steps 3000 --checkpoint /tmp/demo-checkpoint.pt

Every document starts at position 0 in a row of its own, as a request does when it is served. The
matrices of the layers are trained with Muon, all else with AdamW; the exported weights are a
running average.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
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
    """`minutes` may end it before `steps` do; the learning rate follows the nearer end."""

    checkpoint: Path
    steps: int
    minutes: float | None
    documents_per_step: int = 80
    max_batch_tokens: int = 2560
    muon_learning_rate: float = 4e-3
    adam_learning_rate: float = 3e-3
    warmup: float = 0.02
    average_decay: float = 0.99
    checkpoint_every: int = 200
    seed: int = 1


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
    """Owns model, optimizers and average for the time of one training."""

    def __init__(self, config: TrainingConfig, tokenizer: Tokenizer) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self._encoder = DocumentEncoder(tokenizer)
        self._model = LlamaForCausalLM(model_config(tokenizer))
        self._model.set_attn_implementation("eager")  # faster here: most rows are short
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
            if step % REPORT_EVERY == 0 or is_last:
                self._report(step, loss)
            if step % self._config.checkpoint_every == 0 or is_last:
                self._save(step)
            if is_last:
                return

    def _progress(self, step: int) -> float:
        minutes = (time.monotonic() - self._started) / 60
        by_time = minutes / self._config.minutes if self._config.minutes else 0.0
        return min(max(step / self._config.steps, by_time), 1.0)

    def _step(self, stream: Iterator[Document], factor: float) -> float:
        chosen = itertools.islice(stream, self._config.documents_per_step)
        batches = list(self._encoder.batches(chosen, self._config.max_batch_tokens))
        total_weight = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        total_loss = 0.0
        for batch in batches:
            loss = weighted_loss(self._model, batch) / total_weight
            loss.backward()  # type: ignore[no-untyped-call]
            total_loss += float(loss.detach())
            self._num_tokens += batch.ids.numel()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizers.step(factor)
        return total_loss

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = TrainingConfig(
        checkpoint=arguments.checkpoint,
        steps=arguments.steps,
        minutes=arguments.minutes,
        seed=arguments.seed,
    )
    Trainer(config, Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))).run()


if __name__ == "__main__":
    main()
