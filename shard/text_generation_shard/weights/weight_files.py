"""Which files of a model repository or directory hold the weights."""

import enum
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from text_generation_shard.errors import CheckpointError

# Parts of the names of files that a training run leaves beside the weights.
_NOT_WEIGHTS = ("arguments", "args", "training", "optimizer", "scheduler", "scaler", "rng_state")
_ADAPTER_PREFIX = "adapter_"
# The original layout that some repositories carry beside the usual one.
_ORIGINAL_LAYOUT_PREFIX = "consolidated"


class WeightFormat(enum.Enum):
    """How weights are stored, best first; the values are file name extensions."""

    SAFETENSORS = ".safetensors"
    BIN = ".bin"
    PT = ".pt"


_USUAL_STEM: Mapping[WeightFormat, str] = {
    WeightFormat.SAFETENSORS: "model",
    WeightFormat.BIN: "pytorch_model",
    WeightFormat.PT: "pytorch_model",
}


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that together hold every weight once; `index` lists a sharded checkpoint's."""

    format: WeightFormat
    names: tuple[str, ...]
    index: str | None = None


def index_name(weight_format: WeightFormat) -> str:
    """The usual name of the list that says which file holds which tensor."""
    return f"{_USUAL_STEM[weight_format]}{weight_format.value}.index.json"


def weight_file_sets(
    names: Collection[str], read_index: Callable[[str], Mapping[str, str]]
) -> list[WeightFiles]:
    """The sets of weight files among some file names, best format first, at most one per format.

    Within a format an index decides, then the usual single file, then all files there are; what an
    index lists need not be among the names. Names in sub-directories are left out. read_index: from
    the name of an index to its tensor-to-file map.
    """
    at_root = sorted(name for name in names if "/" not in name)
    found: list[WeightFiles] = []
    for weight_format in WeightFormat:
        index = index_name(weight_format)
        single = _USUAL_STEM[weight_format] + weight_format.value
        candidates = [name for name in at_root if _may_hold_weights(name, weight_format)]
        usual = [name for name in candidates if not name.startswith(_ORIGINAL_LAYOUT_PREFIX)]
        if index in at_root:
            files = tuple(sorted(set(read_index(index).values())))
            found.append(WeightFiles(weight_format, files, index))
        elif single in at_root:
            found.append(WeightFiles(weight_format, (single,)))
        elif candidates:
            found.append(WeightFiles(weight_format, tuple(usual or candidates)))
    return found


def choose_weight_files(sets: Sequence[WeightFiles], names: Collection[str]) -> WeightFiles | None:
    """The first set that is whole, else the first, else None."""
    for files in sets:
        if all(name in names for name in files.names):
            return files
    return sets[0] if sets else None


def read_weight_map(path: Path) -> dict[str, str]:
    """Tensor name to file name, from an index; CheckpointError if it is not one."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        names = {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not an index of weight files: {error!r}") from error
    for name in names.values():
        if Path(name).name != name:
            raise CheckpointError(f"{path}: names {name}, which is not in the directory")
    return names


def _may_hold_weights(name: str, weight_format: WeightFormat) -> bool:
    is_other = name.startswith((_ADAPTER_PREFIX, ".")) or any(part in name for part in _NOT_WEIGHTS)
    return name.endswith(weight_format.value) and not is_other
