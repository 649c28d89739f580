"""From the name of an architecture to the code that runs it, and from a directory to a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.config import ModelConfig, read_config
from text_generation_shard.models.llama import Llama
from text_generation_shard.models.model import Model
from text_generation_shard.weights.reader import CheckpointReader, WeightScope


@dataclass(frozen=True, slots=True)
class Family:
    """How to build the models of one family."""

    build: Callable[[ModelConfig, WeightScope, RankGroup], Model]
    # Tensors that a checkpoint of a model with tied embeddings may hold twice.
    tied: tuple[str, ...] = ()


_LLAMA = Family(Llama, tied=("lm_head.weight",))

# By `model_type` of config.json.
FAMILIES: Mapping[str, Family] = MappingProxyType({"llama": _LLAMA, "mistral": _LLAMA})


def family_of(model_type: str) -> Family:
    """The family that runs a model type; a CheckpointError lists what there is."""
    family = FAMILIES.get(model_type)
    if family is None:
        supported = ", ".join(sorted(FAMILIES))
        raise CheckpointError(
            f"model_type {model_type!r} is not supported (supported: {supported})"
        )
    return family


def model_config(model_path: Path) -> ModelConfig:
    """What the model in a directory is; a CheckpointError says what is missing or unknown."""
    config = read_config(model_path)
    try:
        family_of(str(config.get("model_type")))
        return ModelConfig.from_hf(config)
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
) -> LoadedModel:
    """Read this rank's part of the weights; a CheckpointError names what is wrong with them."""
    family = family_of(config.model_type)
    with CheckpointReader(model_path) as reader:
        weights = WeightScope(reader=reader, prefix="", dtype=dtype, device=device)
        model = family.build(config, weights, ranks)
        reader.finish(unused=family.tied if config.tie_word_embeddings else ())
        return LoadedModel(model, reader.kept_bytes)
