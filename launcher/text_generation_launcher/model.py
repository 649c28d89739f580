"""Where the model's files are: a local directory as it is, or what a download makes."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from text_generation_shard.weights.tokenizer_files import has_only_sources

from text_generation_launcher.errors import LaunchError

DEMO_MODEL_NAME = "tgi-demo"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each file of weights
_CONVERTIBLE = ("*.bin", "*.pt")
# What config.json calls the number of query heads, from family to family.
_HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


@dataclass(frozen=True)
class Model:
    """A model that is ready to load."""

    path: Path  # a directory with config.json and safetensors weights
    name: str  # as clients see it


def find_local(model_id: str | None) -> Model | None:
    """The model, if its directory can be used as it is; None if it has to be prepared first.

    LaunchError if it is neither a usable directory nor a name that the hub could know.
    """
    if model_id is None:
        return _demo()
    directory = Path(model_id).expanduser()
    if directory.is_dir():
        return Model(directory.resolve(), model_id) if _is_ready(directory) else None
    if directory.exists():
        raise LaunchError(f"--model-id {model_id}: is a file, not a directory")
    if model_id.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(model_id):
        raise LaunchError(f"--model-id {model_id}: there is no such directory")
    return None


def _demo() -> Model:
    from text_generation_demo import MODEL_DIR

    if not (MODEL_DIR / "config.json").is_file() or not any(MODEL_DIR.glob("*.safetensors")):
        raise LaunchError(f"the demo model is not complete in {MODEL_DIR}: give --model-id")
    return Model(MODEL_DIR, DEMO_MODEL_NAME)


def _is_ready(directory: Path) -> bool:
    """Whether there is nothing to prepare; LaunchError if there is nothing to prepare it from."""
    if not (directory / "config.json").is_file():
        raise LaunchError(f"--model-id {directory}: the directory has no config.json")
    if any(directory.glob("*.safetensors")):
        return not has_only_sources(path.name for path in directory.iterdir())
    if any(path for pattern in _CONVERTIBLE for path in directory.glob(pattern)):
        return False
    raise LaunchError(f"--model-id {directory}: the directory has no weights (*.safetensors)")


def fingerprint(model: Model) -> str:
    """Equal for directories with the same model: configuration, names and sizes of the weights'
    files, and samples from all over them.
    """
    digest = hashlib.sha256((model.path / "config.json").read_bytes())
    for path in sorted(model.path.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for sample in range(_NUM_SAMPLES):
                file.seek(size * sample // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def num_attention_heads(model: Model) -> int | None:
    """As config.json says, or None where it does not say it under a usual name."""
    try:
        config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise LaunchError(f"{model.path / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        return None
    heads = next((config[name] for name in _HEAD_COUNTS if name in config), None)
    return heads if isinstance(heads, int) and heads > 0 else None
