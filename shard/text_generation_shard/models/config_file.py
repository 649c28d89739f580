"""The file config.json of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from text_generation_shard.errors import CheckpointError


def read_config(model_path: Path) -> dict[str, Any]:
    """The contents of a model directory's config.json; CheckpointError if there is none."""
    path = model_path / "config.json"
    if not model_path.is_dir():
        raise CheckpointError(f"--model-path {model_path} is not a directory")
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not an object")
    return config
