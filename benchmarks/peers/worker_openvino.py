"""OpenVINO's runtime on a model exported by `export_openvino`: `FOLDER THREADS`.

Batches of one length, the stateful model that OpenVINO GenAI's pipeline runs, driven directly.
"""

import sys
from pathlib import Path

import numpy as np
import openvino

from benchmarks.peers.protocol import serve, some_tokens

VOCAB_OUTPUT = "logits"


class OpenVinoEngine:
    def __init__(self, folder: Path, num_threads: int) -> None:
        core = openvino.Core()
        model = core.compile_model(
            str(folder / "openvino_model.xml"), "CPU", {"INFERENCE_NUM_THREADS": num_threads}
        )
        self._request = model.create_infer_request()
        self._names = {name for port in model.inputs for name in port.get_names()}

    def begin(self, num_sequences: int, num_tokens: int) -> None:
        self._request.reset_state()
        self._position = 0
        self._infer(np.array([some_tokens(num_tokens, 1000)] * num_sequences, dtype=np.int64))

    def step(self) -> None:
        self._infer(self._last)

    def _infer(self, ids: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> None:
        rows, length = ids.shape
        end = self._position + length
        places = np.arange(self._position, end, dtype=np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, end), dtype=np.int64),
            "position_ids": np.tile(places, (rows, 1)),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        self._request.infer({name: each for name, each in inputs.items() if name in self._names})
        logits = self._request.get_tensor(VOCAB_OUTPUT).data
        self._last = logits[:, -1].argmax(-1)[:, None].astype(np.int64)
        self._position = end


if __name__ == "__main__":
    folder, threads = sys.argv[1:]
    serve(lambda: OpenVinoEngine(Path(folder), int(threads)))
