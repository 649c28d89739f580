"""Graphs that ranks record together, over gloo, on devices whose graphs call what was recorded."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import ShardConfig
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CollectiveError
from text_generation_shard.ops.triton import library
from text_generation_shard.runner.agreed_recording import AgreedRecording
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import ON_GPU
from text_generation_shard.runner.step_graph import StepGraph, copied
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import warmup_request
from tests.shard.ops_triton.interpreter import take_scalars_as_indices
from tests.shard.ranks import call_on_ranks, loaded_shard
from tests.shard.step_script import StepScript, sampling

PROMPTS = [[(7 * index * index + slot) % VOCAB_SIZE for index in range(6)] for slot in range(2)]


@dataclass
class Graph:
    compute: Callable[[], None]

    def replay(self) -> None:
        self.compute()


@dataclass
class Recorder:
    """Calls a function as a GPU's does; may fail when it is to be recorded, or need memory."""

    num_good: int | None = None
    graph_bytes: int = 0
    num_recorded: int = 0
    show = staticmethod(copied)

    def record(self, compute: Callable[[], None]) -> StepGraph:
        compute()
        if self.num_recorded == self.num_good:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.num_recorded += 1
        return Graph(compute)

    @property
    def num_bytes(self) -> int:
        return self.num_recorded * self.graph_bytes


@dataclass(frozen=True)
class Played:
    results: list[bytes]
    # Rows and kinds of the graphs, in the order of recording.
    graphs: list[tuple[int, str]]
    # Whether it will record no more.
    is_closed: bool


# Whose ranks compare their best tokens, and whose ranks deal out the rows.
PLAIN = {"temperature": 0.8}
FILTERED = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.3}


def script(options: dict[str, float]) -> StepScript:
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.admit(1, PROMPTS[1], sampling=sampling(do_sample=True, seed=5, **options))
    script.step({0: 6, 1: 6})
    script.decode([1, 0], 3)
    return script


def play(ranks: RankGroup, path: str, requests: list[bytes], num_good: int | None) -> Played:
    """num_good: the graphs that rank 1 can record, None: all."""
    from text_generation_shard.ops.triton import sample

    shard = loaded_shard(ShardConfig(model_path=path, num_threads=1, dtype="float32"), ranks)
    shard.warm_up(warmup_request())
    engine = shard._engine
    assert engine is not None
    graphs = engine._graphs = DecodeGraphs(
        model=engine._model,
        cache=engine._cache,
        slots=engine._slots,
        sampler=engine._sampler,
        grammars=engine._grammars,
        buckets=[2, 3],
        recorder=Recorder(num_good, graph_bytes=1 << 40) if ranks.rank == 1 else Recorder(),
        ranks=ranks,
        policy=replace(ON_GPU, patience=1),
    )
    take_scalars_as_indices()
    # From here on as on a GPU; this process is this rank's alone. Sizes at which the interpreter is
    # quick.
    library.takes = lambda _: True  # type: ignore[assignment]
    sample._CANDIDATES = 16  # type: ignore[misc]
    graphs.record_first()
    results = []
    for request in requests:
        results.append(shard.step(pb.StepRequest.FromString(request)).SerializeToString())
        # One of the ranks believes that there is time.
        assert ranks.rank == 0 or not graphs.record_next()
    return Played(
        results, [(key.bucket, key.kind.name) for key in graphs._graphs], graphs._is_closed
    )


@pytest.mark.parametrize(
    ("num_good", "num_graphs", "options"),
    [(None, 3, FILTERED), (1, 1, PLAIN)],
    ids=["all", "one"],
)
def test_all_ranks_have_the_same_graphs(
    checkpoint: Checkpoint,
    shard: Shard,
    num_good: int | None,
    num_graphs: int,
    options: dict[str, float],
) -> None:
    """Those that all can record, whichever of them has time, fails, or has no memory for more;
    tokens are the same.
    """
    expected = [shard.step(request) for request in script(options).requests]
    requests = [request.SerializeToString() for request in script(options).requests]
    played = call_on_ranks(play, str(checkpoint.path), requests, num_good, world_size=2)
    assert played[0].graphs == played[1].graphs
    assert played[0].is_closed and played[1].is_closed
    assert len(played[0].graphs) == num_graphs
    for first, other, without in zip(played[0].results, played[1].results, expected, strict=True):
        result = pb.StepResult.FromString(first)
        assert list(result.token_ids) == list(without.token_ids)
        assert list(result.logprobs) == pytest.approx(list(without.logprobs), abs=2e-4)
        assert pb.StepResult.FromString(other).sampled_checksum == without.sampled_checksum


class OtherRank(RankGroup):
    """Agrees with a rank of which all is known."""

    def __init__(self, others: list[int]) -> None:
        super().__init__(rank=0, world_size=2)
        self._others = others

    def minimum(self, value: int) -> int:
        return min(value, self._others.pop(0))

    def maximum(self, value: int) -> int:
        return max(value, self._others.pop(0))


def fails(_: Callable[[], None]) -> StepGraph:
    raise RuntimeError("out of memory")


class FailingRecorder:
    record = staticmethod(fails)


def test_a_rank_that_left_others_in_a_collective_ends_the_group() -> None:
    """It failed before its first collective, the other one began eleven."""
    recording = AgreedRecording(OtherRank([1, 11, 11]))
    assert recording.record(FailingRecorder(), lambda: None) is None
    with pytest.raises(CollectiveError, match=r"in the middle of a step .*: out of memory"):
        recording.agree()


def test_ranks_that_fail_in_the_same_place_go_on_without_graphs() -> None:
    recording = AgreedRecording(OtherRank([0, 0, 0, 0]))
    assert recording.record(FailingRecorder(), lambda: None) is None
    assert not recording.agree()
