"""From the directory of a model to what it is, and to the model itself."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.config_file import read_config
from text_generation_shard.models.model import Model
from text_generation_shard.models.registry import family_of
from text_generation_shard.weights.reader import CheckpointReader
from text_generation_shard.weights.scope import WeightScope
from text_generation_shard.weights.storage import DENSE, WeightStorage

logger = logging.getLogger(__name__)


def model_config(model_path: Path, *, trust_remote_code: bool = False) -> ModelConfig:
    """What the model in a directory is; a CheckpointError says what is missing or unknown.

    trust_remote_code: whether code from the directory may be run, where nothing else knows the
    model.
    """
    config = read_config(model_path)
    family = family_of(str(config.get("model_type")))
    try:
        if family is not None:
            return family.config.from_hf(config)
        from text_generation_shard.generic.config import read_generic_config

        return read_generic_config(model_path, config, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        raise CheckpointError(f"{model_path / 'config.json'}: {error}") from error


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose weights are in memory; weight_bytes: this rank's part."""

    model: Model
    weight_bytes: int


def load_model(
    model_path: Path,
    config: ModelConfig,
    ranks: RankGroup,
    *,
    dtype: torch.dtype,
    device: torch.device,
    storage: WeightStorage = DENSE,
    cache_dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Read this rank's part of the weights; a CheckpointError names what is wrong with them.

    dtype: of activations and all weights that are no matrices; storage: of those; cache_dtype: of
    keys and values, if another one. CapacityError where the model cannot have it.
    """
    family = family_of(config.model_type)
    if family is None:
        _check_cache_dtype(cache_dtype, None, "a model that runs on transformers' code")
        return _load_generic(model_path, config, ranks, dtype=dtype, device=device)
    if config.scale_blocks is not None:
        logger.info(
            "Weights are stored as 8-bit floats in blocks; they are widened while they are read"
        )
    with CheckpointReader(model_path, scale_blocks=config.scale_blocks, device=device) as reader:
        weights = WeightScope(
            reader=reader,
            prefix="",
            dtype=dtype,
            device=device,
            storage=storage,
            cache_dtype=cache_dtype,
        )
        model = family.build(config, weights, ranks)
        _check_cache_dtype(cache_dtype, model.cache_spec.cache_dtype, family.architecture)
        tied = family.tied if config.tie_word_embeddings else ()
        unserved = None if family.unserved is None else family.unserved(config)
        reader.finish(unused=tied, buffers=family.buffers, unserved=unserved)
        return LoadedModel(model, reader.kept_bytes)


def _check_cache_dtype(asked: torch.dtype | None, had: torch.dtype | None, model: str) -> None:
    if asked != had:
        raise CapacityError(
            f"--kv-cache-dtype {str(asked).removeprefix('torch.')} is not available for {model}: "
            "only attention of this server can keep keys and values in another data type than it "
            "computes in, and only keys and values of its own in 8 bits"
        )


def _load_generic(
    model_path: Path,
    config: ModelConfig,
    ranks: RankGroup,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> LoadedModel:
    from text_generation_shard.generic.config import GenericConfig
    from text_generation_shard.generic.loading import load_generic

    assert isinstance(config, GenericConfig)
    try:
        model, num_bytes = load_generic(model_path, config, ranks, dtype=dtype, device=device)
    except CheckpointError as error:
        raise CheckpointError(f"{model_path}: {error}") from error
    return LoadedModel(model, num_bytes)
