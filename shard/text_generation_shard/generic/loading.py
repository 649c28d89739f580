"""From a directory to a model that serves: transformers reads the weights, we check and plug in."""

import dataclasses
import inspect
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.generic import self_check
from text_generation_shard.generic.attention import CurrentStep, PagedLayer
from text_generation_shard.generic.config import GenericConfig
from text_generation_shard.generic.foreign import refusing
from text_generation_shard.generic.model import GenericModel
from text_generation_shard.generic.proven import PROVEN
from text_generation_shard.generic.survey import LayerAttention, survey
from text_generation_shard.kv_cache import KVCacheSpec

logger = logging.getLogger(__name__)


def load_generic(
    model_path: Path,
    config: GenericConfig,
    ranks: RankGroup,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[GenericModel, int]:
    """This rank's part of the model and its weights' bytes; CheckpointError, CapacityError."""
    _require_servable(config, ranks)
    if ranks.rank == 0:
        _warn(config)
    module = _read(model_path, config, ranks, dtype=dtype, device=device)
    layers = survey(
        module.base_model,
        num_layers=config.num_layers,
        max_positions=config.max_position_embeddings,
    )
    expected = self_check.expect(module, config.vocab_size)
    model = _plug_in(module, config, layers, ranks, device)
    self_check.check(model, expected, ranks)
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return model, sum(_local_bytes(tensor) for tensor in tensors.values())


def _warn(config: GenericConfig) -> None:
    untested = "" if config.model_type in PROVEN else "; no test here covers this architecture"
    logger.warning(
        "%s has no family here: it runs on transformers' code with this server's paged attention, "
        "which takes longer than a family would, above all to decode (docs/performance.md)%s",
        config.model_class.__name__,
        untested,
    )


def _require_servable(config: GenericConfig, ranks: RankGroup) -> None:
    """What the model's class shows before weights are read."""
    name = config.model_class.__name__
    if getattr(config.model_class, "_is_stateful", False):
        raise CheckpointError(f"{name} keeps a recurrent state, which the KV cache does not hold")
    if ranks.world_size == 1:
        return
    if not getattr(config.native, "base_model_tp_plan", None):
        raise CheckpointError(
            f"{name} has no tensor-parallel plan in transformers: it runs with --num-shard 1 only"
        )
    for key, count in (
        ("num_attention_heads", config.total_num_heads),
        ("num_key_value_heads", config.total_num_kv_heads),
    ):
        if count % ranks.world_size:
            raise CapacityError(
                f"{key} ({count}) cannot be divided among {ranks.world_size} shards (--num-shard) "
                "by transformers' tensor-parallel plan"
            )


def _read(
    model_path: Path,
    config: GenericConfig,
    ranks: RankGroup,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """A PreTrainedModel with this rank's weights; CheckpointError names tensors that are amiss."""
    placement: dict[str, Any] = {"device_map": {"": device}}
    if ranks.world_size > 1:
        placement = {"distributed_config": DistributedConfig(tp_size=ranks.world_size)}
        if device.type == "cuda":
            # Where transformers looks for the device.
            os.environ["LOCAL_RANK"] = str(device.index)
    with refusing("transformers cannot load it"):
        module, report = config.model_class.from_pretrained(
            model_path,
            config=config.native,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **placement,
        )
    _require_all(report)
    body = module.base_model
    if body is module:
        raise CheckpointError(f"{type(module).__name__} has no body apart from its head")
    if "position_ids" not in inspect.signature(body.forward).parameters:
        raise CheckpointError(f"{type(body).__name__} takes no position_ids")
    return module


def _require_all(report: dict[str, Any]) -> None:
    """CheckpointError unless every tensor was there, had its shape, and was asked for."""
    for name, stored, implied in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"tensor {name} has shape {list(stored)}, config.json implies {list(implied)}"
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{len(missing)} tensor(s) missing: {_some(missing)}")
    if unexpected := sorted(report["unexpected_keys"]):
        raise CheckpointError(
            f"{len(unexpected)} tensor(s) that this model does not have: {_some(unexpected)}"
        )
    for message in report["error_msgs"]:
        raise CheckpointError(message.strip().splitlines()[0])


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _plug_in(
    module: Any,
    config: GenericConfig,
    layers: list[LayerAttention],
    ranks: RankGroup,
    device: torch.device,
) -> GenericModel:
    """Give every layer its place in the cache, and the model our attention."""
    cache_spec = _cache_spec(layers, device)
    step = CurrentStep()
    for index, layer in enumerate(layers):
        attention: Any = layer.module
        attention.paged_layer = PagedLayer(
            step=step,
            index=index,
            scale=layer.scale,
            soft_cap=layer.soft_cap,
            sliding_window=layer.sliding_window,
        )
    windows = tuple(layer.sliding_window for layer in layers)
    config = dataclasses.replace(config, layer_windows=windows)
    return GenericModel(config, cache_spec, module=module, step=step, ranks=ranks)


def _cache_spec(layers: list[LayerAttention], device: torch.device) -> KVCacheSpec:
    """One for all layers; CheckpointError if they differ."""
    kinds = {(layer.num_kv_heads, layer.head_dim, layer.dtype) for layer in layers}
    if len(kinds) > 1:
        shown = "; ".join(f"{heads} of size {size}" for heads, size, _ in sorted(kinds, key=str))
        raise CheckpointError(f"layers with different key and value heads ({shown})")
    num_kv_heads, head_dim, dtype = kinds.pop()
    return KVCacheSpec(
        num_layers=len(layers),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
    )


def _local_bytes(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.nbytes
