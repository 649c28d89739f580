"""Converts PyTorch checkpoint files to safetensors, once, beside their sources.

Order of effects: every file is written under a temporary name, flushed, read back and compared;
then all are renamed, the index of a sharded checkpoint first. What was interrupted therefore leaves
no new file, or an index that names files which are not there; both are converted again. Sources are
never changed.
"""

import json
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.safetensors_header import read_header
from text_generation_shard.weights.transfer_progress import TransferProgress
from text_generation_shard.weights.weight_files import WeightFormat, index_name

logger = logging.getLogger(__name__)

_SOURCE_PREFIX = "pytorch_"
# Parts of the names of output projections, which models tie to their embeddings.
_HEADS = ("lm_head", "embed_out", "output_projection")


@dataclass(frozen=True)
class _Tensors:
    """The tensors of one file, none of which shares memory with another."""

    kept: Mapping[str, Tensor]
    # Name of a tensor that was left out to the name of the kept one that it is the same as.
    aliases: Mapping[str, str]


def convert(directory: Path, names: Sequence[str]) -> None:
    """Convert .bin or .pt files of a directory; raises CheckpointError naming the file."""
    targets = {name: _target_name(name) for name in names}
    if len(set(targets.values())) < len(targets):
        raise CheckpointError(f"{directory}: several of {', '.join(names)} have the same new name")
    if not os.access(directory, os.W_OK):
        raise CheckpointError(
            f"{directory}: has no safetensors weights and is not writable, so that {names[0]} "
            "cannot be converted there"
        )
    temporaries = {target: _temporary(directory, target) for target in sorted(targets.values())}
    try:
        _convert_files(directory, targets, temporaries)
        if len(targets) > 1:
            index = index_name(WeightFormat.SAFETENSORS)
            text = _index_text(temporaries)
            temporaries = {index: _temporary(directory, index), **temporaries}
            temporaries[index].write_text(text, encoding="utf-8")
        for target, temporary in temporaries.items():
            temporary.replace(directory / target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: converting failed: {error}") from error
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _convert_files(
    directory: Path, targets: Mapping[str, str], temporaries: Mapping[str, Path]
) -> None:
    sizes = {name: (directory / name).stat().st_size for name in targets}
    progress = TransferProgress("Converting weights to safetensors", sizes)
    for name, target in targets.items():
        logger.info("Converting %s to %s", name, target)
        source, temporary = directory / name, temporaries[target]
        tensors = _without_shared_memory(_load(source))
        save_file(dict(tensors.kept), temporary, metadata={"format": "pt", **tensors.aliases})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _compare(source, tensors.kept, temporary)
        progress.finish(name)


def _temporary(directory: Path, target: str) -> Path:
    return directory / f".{target}.{os.getpid()}.tmp"


def _target_name(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`."""
    return Path(name).stem.removeprefix(_SOURCE_PREFIX) + WeightFormat.SAFETENSORS.value


def _load(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; only tensors and plain containers are ever unpickled."""
    try:
        is_zip = zipfile.is_zipfile(source)
        state: Any = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source}: is not a PyTorch checkpoint: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{source}: holds no dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{source}: {name} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{source}: tensor {name} is not dense")
    return {str(name): tensor.detach() for name, tensor in state.items()}


def _without_shared_memory(state: Mapping[str, Tensor]) -> _Tensors:
    """Keep one name of each set of equal views; give overlapping ones memory of their own."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[object, str] = {}
    num_views: dict[int, int] = {}
    for name in sorted(state, key=_preference):
        tensor = state[name]
        storage = tensor.untyped_storage().data_ptr()
        view = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        first = first_names.setdefault(view, name) if tensor.numel() else name
        if first != name:
            aliases[name] = first
            continue
        kept[name] = tensor
        num_views[storage] = num_views.get(storage, 0) + 1
    for name, tensor in kept.items():
        if num_views[tensor.untyped_storage().data_ptr()] > 1 and tensor.numel():
            kept[name] = tensor.clone(memory_format=torch.contiguous_format)
        else:
            kept[name] = tensor.contiguous()
    return _Tensors(kept=kept, aliases=aliases)


def _preference(name: str) -> tuple[bool, int, str]:
    """Of the names of one tensor the least is kept: an embedding's, not the head's that is tied to
    it; a shared one's, not that of a part.
    """
    parts = name.split(".")
    return any(part in _HEADS for part in parts), len(parts), name


def _compare(source: Path, expected: Mapping[str, Tensor], written: Path) -> None:
    """Read a file back; CheckpointError unless every tensor has the same bytes."""
    read_header(written)
    with safe_open(written, framework="pt") as file:
        for name, tensor in expected.items():
            found = file.get_tensor(name)
            if found.dtype != tensor.dtype or found.shape != tensor.shape:
                raise CheckpointError(f"{source}: tensor {name} changed its type when converted")
            if not torch.equal(_bytes(found), _bytes(tensor)):
                raise CheckpointError(f"{source}: tensor {name} changed when it was converted")


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _index_text(files: Mapping[str, Path]) -> str:
    """The index of a sharded checkpoint; `files` maps the final names to where they are now."""
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for name, path in files.items():
        for tensor, entry in read_header(path).tensors.items():
            if tensor in weight_map:
                raise CheckpointError(
                    f"{path.parent}: tensor {tensor} is in {weight_map[tensor]} and in {name}"
                )
            weight_map[tensor] = name
            total_bytes += entry.end - entry.begin
    index = {
        "metadata": {"total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return json.dumps(index, indent=2) + "\n"
