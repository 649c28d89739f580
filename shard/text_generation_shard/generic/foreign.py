"""Errors of code that is not ours, as one line that says what was being done."""

from collections.abc import Iterator
from contextlib import contextmanager

from text_generation_shard.errors import CheckpointError, ShardError


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever transformers or a model's own code raises becomes a CheckpointError: `what: why`."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise CheckpointError(f"{what}: {type(error).__name__}: {reason[0]}") from error
