"""transformers: `MODEL DTYPE THREADS`; batches of one length, without `generate` around it."""

import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.protocol import serve, some_tokens


class TransformersEngine:
    def __init__(self, model: str, dtype: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)

    def begin(self, num_sequences: int, num_tokens: int) -> None:
        ids = some_tokens(num_tokens, self._model.config.vocab_size)
        self._cache: Any = None
        self._forward(torch.tensor([ids] * num_sequences))

    def step(self) -> None:
        self._forward(self._last)

    def _forward(self, ids: torch.Tensor) -> None:
        output = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        self._last = output.logits[:, -1].argmax(-1, keepdim=True)


if __name__ == "__main__":
    model, dtype, threads = sys.argv[1:]
    with torch.inference_mode():
        serve(lambda: TransformersEngine(model, dtype, int(threads)))
