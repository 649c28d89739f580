"""Sums over ranks through shared memory, each rank a process of its own."""

import mmap
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard import shared_sums
from text_generation_shard.config import ShardConfig
from text_generation_shard.distributed import RankGroup, collective
from text_generation_shard.errors import CollectiveError
from text_generation_shard.ops.cpu import library
from text_generation_shard.runner.cpu_graph import CpuGraphRecorder

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import warmup_request
from tests.shard.ranks import call_on_ranks, loaded_shard
from tests.shard.test_graphs_of_ranks import script

pytestmark = pytest.mark.skipif(library.operators() is None, reason="no C++ operators here")
# Elements: few, odd, more than a slot holds, more than several hold.
SIZES = (1, 37, 4096, 65_536, 65_537, 200_001)


def parts(world_size: int, size: int) -> list[torch.Tensor]:
    """What the ranks have; of such magnitudes that the order of a sum decides its last bits."""
    generator = torch.Generator().manual_seed(size)
    scales = 10.0 ** torch.arange(world_size)
    return [torch.randn(size, generator=generator) * scale for scale in scales]


def sum_all(ranks: RankGroup) -> list[torch.Tensor]:
    assert isinstance(ranks._fast_sums, shared_sums.SharedSums)
    return [ranks.all_reduce(parts(ranks.world_size, size)[ranks.rank]) for size in SIZES]


@pytest.mark.parametrize("world_size", [2, 3])
def test_sums(world_size: int) -> None:
    """Added up in the order of the ranks, to the last bit, on all of them."""
    sums = call_on_ranks(sum_all, world_size=world_size)
    for index, size in enumerate(SIZES):
        first, *others = parts(world_size, size)
        expected = first.clone()
        for other in others:
            expected += other
        for rank in range(world_size):
            assert torch.equal(sums[rank][index], expected)


def gather_all(ranks: RankGroup) -> list[torch.Tensor]:
    tensors = [torch.full((3, 2), ranks.rank), torch.full((5,), ranks.rank + 0.5)]
    tensors.append(torch.arange(100_000) + ranks.rank)
    return [ranks.gather_everywhere(own.T) for own in tensors]


def test_gathered() -> None:
    for gathered in call_on_ranks(gather_all, world_size=3):
        for rank in range(3):
            assert torch.equal(gathered[0][rank], torch.full((2, 3), rank))
            assert torch.equal(gathered[1][rank], torch.full((5,), rank + 0.5))
            assert torch.equal(gathered[2][rank], torch.arange(100_000) + rank)


def other_tensors(ranks: RankGroup) -> list[torch.Tensor]:
    """Whole numbers, and a column of a table: gloo's, which looks at no strides."""
    table = torch.full((3, 4), float(ranks.rank + 1))
    return [ranks.all_reduce(torch.tensor([ranks.rank + 1])), ranks.all_reduce(table[:, 1])]


def test_other_tensors() -> None:
    for whole, column in call_on_ranks(other_tensors, world_size=2):
        assert whole.tolist() == [3]
        assert column.tolist() == [3.0] * 3


def recorded_sums(ranks: RankGroup) -> list[float]:
    """A recording that sums what stands in its memory, replayed between sums that are not."""
    values, sums = torch.zeros(40), []

    def compute() -> None:
        total = values.clone()
        ranks.all_reduce(total)
        values.copy_(total)

    graph = CpuGraphRecorder().record(compute)
    for step in range(3):
        values.fill_(step + ranks.rank)
        graph.replay()
        sums.append(float(values[7]))
        sums.append(float(ranks.all_reduce(torch.full((9,), 10.0 * step))[0]))
    return sums


def test_recorded() -> None:
    for sums in call_on_ranks(recorded_sums, world_size=2):
        assert sums == [1.0, 0.0, 3.0, 20.0, 5.0, 40.0]


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_rank_that_has_ended(is_recorded: bool) -> None:
    """It is missed within about a second, not after the time that a long step may take."""
    child = subprocess.Popen(["true"])
    child.wait()
    ranks = group_of_two(process=os.getpid(), timeout_s=600)
    values = torch.ones(4)
    other = library.shared_sums(ranks.memory, 1, 2, 600.0)
    thread = threading.Thread(target=other.sum, args=(torch.ones(4),))
    thread.start()
    graph = CpuGraphRecorder().record(lambda: ranks.sums.sum(values))
    thread.join()
    ranks.set_process(child.pid)
    with (
        pytest.raises(CollectiveError, match="lost the other ranks: rank 1 has ended"),
        collective(),
    ):
        graph.replay() if is_recorded else ranks.sums.sum(values)


def test_a_rank_that_does_not_come() -> None:
    ranks = group_of_two(process=os.getpid(), timeout_s=0.1)
    with pytest.raises(RuntimeError, match=r"rank 1 did not come in 0\.1 s"):
        ranks.sums.sum(torch.zeros(1))


@dataclass(frozen=True)
class Half:
    """Rank 0 of two, in this process."""

    memory: torch.Tensor
    sums: library.SharedSums

    def set_process(self, process: int) -> None:
        """Who rank 1 is: see `Arrival` in shared_sums.h."""
        self.memory[64:].view(torch.int32)[2] = process


def group_of_two(*, process: int, timeout_s: float) -> Half:
    num_bytes = library.shared_sums_bytes(2)
    memory = torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=torch.uint8)
    half = Half(memory, library.shared_sums(memory, 0, 2, timeout_s))
    half.set_process(process)
    return half


def test_without_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that is not there on rank 0: no rank has it, and sums are gloo's."""
    assert call_on_ranks(join_without_folder, str(tmp_path / "missing"), world_size=2) == [True] * 2


def join_without_folder(ranks: RankGroup, folder: str) -> bool:
    if ranks.rank == 0:
        shared_sums._FOLDER = Path(folder)  # type: ignore[misc]
    return shared_sums.shared_sums(ranks, timeout_s=5) is None


def files(ranks: RankGroup, folder: str) -> list[str]:
    shared_sums._FOLDER = Path(folder)  # type: ignore[misc]
    sums = shared_sums.shared_sums(ranks, timeout_s=60)
    assert sums is not None
    ranks.minimum(1)
    return [path.name for path in Path(folder).iterdir()]


def test_no_file_is_left(tmp_path: Path) -> None:
    assert call_on_ranks(files, str(tmp_path), world_size=2) == [[], []]


def play(ranks: RankGroup, path: str, requests: list[bytes], is_recorded: bool) -> list[Any]:
    """Tokens, log-probabilities and checksums of the steps; graphs are recorded after a few."""
    graphs = None if is_recorded else (0,)
    shard = loaded_shard(
        ShardConfig(model_path=path, num_threads=1, dtype="float32", cuda_graphs=graphs), ranks
    )
    shard.warm_up(warmup_request())
    engine = shard._engine
    assert engine is not None
    assert (engine.graphs is not None) == is_recorded
    results = []
    for request in requests:
        result = shard.step(pb.StepRequest.FromString(request))
        results.append((list(result.token_ids), list(result.logprobs), result.sampled_checksum))
    if engine.graphs is not None:
        assert {key.bucket for key in engine.graphs._graphs} == {1, 2}
    return results


def test_recorded_steps(checkpoint: Checkpoint) -> None:
    """The same bits as steps that are computed operator by operator."""
    steps = script({"temperature": 0.8})
    steps.decode([1, 0], 12)
    requests = [request.SerializeToString() for request in steps.requests]
    path = str(checkpoint.path)
    replayed, computed = (
        call_on_ranks(play, path, requests, is_recorded, world_size=2)
        for is_recorded in (True, False)
    )
    assert replayed[0] == computed[0]
    assert replayed[1] == computed[1]
