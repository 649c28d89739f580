"""Which code a model brings along."""

import json
from collections.abc import Mapping
from pathlib import Path

from text_generation_shard.errors import CheckpointError


def code_files(path: Path) -> set[str]:
    """Names of the files with the classes that a config.json names; what they import is not known.

    CheckpointError if it is not JSON.
    """
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    auto_map = config.get("auto_map") if isinstance(config, dict) else None
    if not isinstance(auto_map, Mapping):
        return set()
    # "module.Class"; "owner/name--module.Class" lies in another repository.
    names = (value for value in auto_map.values() if isinstance(value, str) and "--" not in value)
    return {f"{name.rpartition('.')[0]}.py" for name in names if "." in name}
