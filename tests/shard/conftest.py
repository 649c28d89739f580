from collections.abc import Iterator

import pytest
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import Checkpoint, write_checkpoint
from tests.shard.engines import running_shard


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Llama in float32."""
    return write_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def running(checkpoint: Checkpoint) -> Iterator[Shard]:
    with running_shard(checkpoint.path) as shard:
        yield shard


@pytest.fixture
def shard(running: Shard) -> Shard:
    """One rank of `checkpoint`, all slots empty."""
    running.reset()
    return running
