"""llama.cpp through llama-cpp-python's low-level functions: `GGUF THREADS`.

All sequences decode in one batch, as in llama.cpp's own server and batched benchmark.
"""

import sys
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.peers.protocol import serve, some_tokens

MAX_SEQUENCES = 32
MAX_TOKENS = 512
BATCH_TOKENS = 2048


class LlamaCppEngine:
    def __init__(self, path: str, num_threads: int) -> None:
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self._model:
            raise RuntimeError(f"{path} cannot be loaded")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = MAX_SEQUENCES * MAX_TOKENS
        settings.n_batch = BATCH_TOKENS
        settings.n_seq_max = MAX_SEQUENCES
        settings.n_threads = settings.n_threads_batch = num_threads
        settings.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch: Any = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)

    def begin(self, num_sequences: int, num_tokens: int) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        ids = some_tokens(num_tokens, self._vocab_size)
        self._lasts: list[int] = []
        for sequence in range(num_sequences):
            self._decode([(sequence, place, token) for place, token in enumerate(ids)], 1)
        self._position = num_tokens

    def step(self) -> None:
        rows = [(sequence, self._position, token) for sequence, token in enumerate(self._lasts)]
        self._lasts = []
        self._decode(rows, len(rows))
        self._position += 1

    def _decode(self, rows: list[tuple[int, int, int]], num_sampled: int) -> None:
        """rows: sequence, position and token; the last `num_sampled` of them get logits."""
        batch = self._batch
        batch.n_tokens = len(rows)
        first_sampled = len(rows) - num_sampled
        for index, (sequence, position, token) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = index >= first_sampled
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        for index in range(first_sampled, len(rows)):
            logits = llama_cpp.llama_get_logits_ith(self._context, index)
            self._lasts.append(int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax()))


if __name__ == "__main__":
    path, threads = sys.argv[1:]
    serve(lambda: LlamaCppEngine(path, int(threads)))
