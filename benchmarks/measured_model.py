"""The model that a benchmark measures: a local checkpoint, or random weights of some size."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.checkpoint import DTYPES, SHAPES, Dtype, write_checkpoint


def add_model_options(parser: argparse.ArgumentParser, *, size: str, dtype: Dtype) -> None:
    """--size, --model-id and --dtype; size, dtype: what they are without being asked for."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--size", choices=SHAPES, default=size, help="random weights")
    model.add_argument("--model-id", type=Path, metavar="FOLDER", help="a local checkpoint")
    parser.add_argument("--dtype", choices=DTYPES, default=dtype)


def model_name(options: argparse.Namespace) -> str:
    """As the options have it."""
    return str(options.model_id or options.size)


@contextlib.contextmanager
def model_folder(options: argparse.Namespace) -> Iterator[Path]:
    """Where the model lies; random weights are written there, and stay until the end."""
    if options.model_id is not None:
        yield options.model_id
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch) / options.size
        write_checkpoint(folder, SHAPES[options.size], dtype=options.dtype)
        yield folder
