"""What the generic path costs: one model by its family's code and by transformers'.

    python -m benchmarks.checkpoint 135m --output /tmp/llama-135m --dtype float32
    python -m benchmarks.generic /tmp/llama-135m --rounds 4

Engines without HTTP, in this process and in turn, so that a noisy machine is noisy for both.
"""

import argparse
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from text_generation_shard.models import registry

from benchmarks.storage import StorageEngine, measure_speed

DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a local checkpoint whose family is ours")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    with torch.inference_mode():
        engines = {"its family": StorageEngine(options.model, options.dtype, options.threads)}
        with mock.patch.object(registry, "FAMILIES", {}):
            generic = StorageEngine(options.model, options.dtype, options.threads)
            engines["transformers' code"] = generic
        found = measure_speed(engines, options.rounds)
    Console(width=120).print(found)


if __name__ == "__main__":
    main()
