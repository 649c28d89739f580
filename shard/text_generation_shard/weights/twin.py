"""A directory that takes the place of one that cannot be written to: links, and what was made.

It lies in the user's cache under a name made of the original's path and of what its files are, so
that a changed original gets a new one.
"""

import hashlib
from pathlib import Path

from text_generation_shard.cache_directory import cache_directory
from text_generation_shard.errors import CheckpointError


def twin_directory(original: Path) -> Path:
    """The twin, with a link to every file of the original; what it holds besides stays.

    CheckpointError if the cache cannot be written either. Several processes may do this at the
    same time.
    """
    twin = cache_directory() / "models" / f"{original.name}-{_fingerprint(original)}"
    try:
        twin.mkdir(parents=True, exist_ok=True)
        for path in original.iterdir():
            link = twin / path.name
            try:
                link.symlink_to(path)
            except FileExistsError:
                continue
    except OSError as error:
        raise CheckpointError(
            f"{original} cannot be written to, and neither can {twin}: {error}"
        ) from error
    return twin


def _fingerprint(original: Path) -> str:
    digest = hashlib.sha256(str(original).encode())
    for path in sorted(original.iterdir()):
        status = path.stat()
        digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
