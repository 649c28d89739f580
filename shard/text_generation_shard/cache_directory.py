"""Where this user keeps what can be made again."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """The server's own part of the user's cache; it need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "text-generation-inference"
