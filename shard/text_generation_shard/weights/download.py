"""`text-generation-server download-weights`: makes a directory from which a model can be loaded.

A local directory stays where it is, a hub model goes to the hub's cache. Either ends with
config.json, whole safetensors files and, if it can be made, a tokenizer.json; the last log record
names the directory in its field `model_path`. Nothing but log records is written to standard
output.
"""

import importlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from text_generation_process import logs
from text_generation_process.options import option, parse

from text_generation_shard.errors import CheckpointError, ShardError
from text_generation_shard.weights import hub
from text_generation_shard.weights.remote_code import code_files
from text_generation_shard.weights.safetensors_header import read_header
from text_generation_shard.weights.tokenizer_files import (
    TOKENIZER_FILE,
    convert_tokenizer,
    has_only_sources,
)
from text_generation_shard.weights.twin import twin_directory
from text_generation_shard.weights.weight_files import (
    WeightFiles,
    WeightFormat,
    choose_weight_files,
    read_weight_map,
    weight_file_sets,
)

logger = logging.getLogger(__name__)

_PROGRAM = "text-generation-server download-weights"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Loggers that tell every request at INFO.
_TALKATIVE = ("httpx", "httpx2", "httpcore", "httpcore2", "filelock")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Every field is a flag; the model may also be the first argument, without its flag."""

    model_id: str = option(help="Local directory, or name of a model on the hub.")
    revision: str | None = option(None, help="Branch, tag or commit on the hub.")
    huggingface_hub_cache: str | None = option(None, help="Root directory of the hub's cache.")
    weights_cache_override: str | None = option(
        None,
        help="Directory that holds, or receives, the model's files in place of the hub's cache.",
    )
    trust_remote_code: bool = option(False, help="Fetch the model's own code too.")
    json_output: bool = option(False, help="Write log lines as JSON.")
    logger_level: logs.Level = option("INFO", help="Least severe level that is logged.")


def main(argv: list[str]) -> None:
    """Prepare the model that the flags name; exit with 1 and one logged line if it cannot be."""
    named = ["--model-id", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(
        DownloadConfig,
        program=_PROGRAM,
        help="Fetch a model and make its weights safetensors.",
        argv=named,
    )
    logs.setup(level=config.logger_level, as_json=config.json_output)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        directory = prepare(config, os.environ)
    except ShardError as error:
        logger.error("%s", error)
        sys.exit(1)
    except Exception:
        logger.exception("The model cannot be prepared")
        sys.exit(1)
    logger.info("The model is ready", extra={"fields": {"model_path": str(directory)}})


def prepare(config: DownloadConfig, environment: Mapping[str, str]) -> Path:
    """The directory with the model's files, complete and checked; a ShardError says why not."""
    directory = _local_directory(config.model_id) or _hub_directory(config, environment)
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory}: has no config.json")
    weights = _weights_in(directory)
    if weights.format is not WeightFormat.SAFETENSORS:
        # torch is imported here only: it takes seconds that a ready checkpoint need not pay.
        from text_generation_shard.weights.convert import convert

        convert(directory, weights.names)
        weights = _weights_in(directory)
    for name in weights.names:
        read_header(directory / name)
    return _with_tokenizer(directory)


def _with_tokenizer(directory: Path) -> Path:
    """The directory with a tokenizer.json, or its twin where it cannot be written to."""
    if not has_only_sources(path.name for path in directory.iterdir()):
        return directory
    target = directory if os.access(directory, os.W_OK) else twin_directory(directory)
    if not (target / TOKENIZER_FILE).is_file():
        convert_tokenizer(directory, target)
    return target if (target / TOKENIZER_FILE).is_file() else directory


def _local_directory(model_id: str) -> Path | None:
    path = Path(model_id).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise CheckpointError(f"{model_id}: is a file, not the directory of a model")
    if model_id.startswith((".", "/", "~")):
        raise CheckpointError(f"{model_id}: there is no such directory")
    return None


def _hub_directory(config: DownloadConfig, environment: Mapping[str, str]) -> Path:
    """Where the hub's files are: fetched unless the cache is known to hold them."""
    override, cache = config.weights_cache_override, config.huggingface_hub_cache
    model = hub.HubModel(
        model_id=config.model_id,
        revision=config.revision,
        token=hub.hub_token(environment),
        cache_dir=Path(cache).expanduser() if cache else None,
        local_dir=Path(override).expanduser() if override else None,
        with_code=config.trust_remote_code,
    )
    _let_records_through("huggingface_hub")
    cached = hub.cached_directory(model)
    is_fixed = override is not None or _COMMIT.fullmatch(config.revision or "")
    if cached is not None and not _has_code(cached, config):
        # Fetched before its code was wanted.
        cached = None
    if cached is not None and is_fixed and _is_complete(cached):
        return cached
    if hub.is_offline():
        if cached is None or not _is_there(cached):
            place = override or cache or "the hub's cache"
            raise hub.HubError(f"HF_HUB_OFFLINE is set and {model} is not complete in {place}")
        logger.info("Using %s from %s: HF_HUB_OFFLINE is set", model, cached)
        return cached
    try:
        return hub.fetch(model, is_converted=_is_complete)
    except hub.HubUnreachableError as error:
        if cached is None or not _is_there(cached):
            raise
        logger.warning("%s; using the copy in %s", error, cached)
        return cached


def _has_code(directory: Path, config: DownloadConfig) -> bool:
    """Whether the code is there that config.json names, if it is wanted."""
    path = directory / "config.json"
    if not config.trust_remote_code or not path.is_file():
        return True
    return all((directory / name).is_file() for name in code_files(path))


def _is_there(directory: Path) -> bool:
    """Whether nothing is left to download."""
    weights = _choose_in(directory)
    if weights is None:
        return False
    return all((directory / name).is_file() for name in ("config.json", *weights.names))


def _is_complete(directory: Path) -> bool:
    """Whether nothing is left to download or to convert; damaged files are found later."""
    weights = _choose_in(directory)
    is_converted = weights is not None and weights.format is WeightFormat.SAFETENSORS
    return is_converted and _is_there(directory)


def _weights_in(directory: Path) -> WeightFiles:
    """The directory's weight files; CheckpointError if there are none or one is missing."""
    weights = _choose_in(directory)
    if weights is None:
        raise CheckpointError(f"{directory}: has no weights (*.safetensors, *.bin or *.pt)")
    for name in weights.names:
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory / name}: is missing, though {weights.index} names it"
            )
    return weights


def _choose_in(directory: Path) -> WeightFiles | None:
    names = {path.name for path in directory.iterdir()}
    sets = weight_file_sets(names, lambda name: read_weight_map(directory / name))
    return choose_weight_files(sets, names)


def _let_records_through(library: str) -> None:
    """Take away a library's own log handler: its records reach ours, and only ours."""
    importlib.import_module(library)
    logging.getLogger(library).handlers.clear()
