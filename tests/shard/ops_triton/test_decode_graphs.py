"""Decode steps as graphs, on a device whose graphs call what was recorded again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.ops.triton import library, sample
from text_generation_shard.runner import graph_policy
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import (
    DEFAULT_BUCKETS,
    ON_GPU,
    buckets_for,
    graph_buckets,
)
from text_generation_shard.runner.step_graph import copied
from triton.runtime.errors import OutOfResources

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import running_shard
from tests.shard.step_script import StepScript, sampling

PROMPTS = [[(7 * index * index + slot) % VOCAB_SIZE for index in range(6)] for slot in range(4)]


@dataclass
class FakeGraph:
    compute: Callable[[], None]
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.compute()


@dataclass
class FakeRecorder:
    """Records as a GPU does: the function is called before, and its effects are kept."""

    graphs: list[FakeGraph] = field(default_factory=list)
    error: Exception | None = None
    # Recorded before that error.
    num_good: int = 0
    bytes_per_graph: int = 0
    show = staticmethod(copied)

    @property
    def num_bytes(self) -> int:
        return len(self.graphs) * self.bytes_per_graph

    def record(self, compute: Callable[[], None]) -> FakeGraph:
        compute()
        if self.error is not None and len(self.graphs) >= self.num_good:
            raise self.error
        self.graphs.append(FakeGraph(compute))
        return self.graphs[-1]

    @property
    def replays(self) -> list[int]:
        return [graph.replays for graph in self.graphs]


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    with running_shard(checkpoint.path) as shard:
        assert shard._engine is not None
        yield shard._engine


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def play(
    engine: Engine, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[pb.StepResult]]:
    """Plays a script with the kernels and graphs of some buckets, or with neither."""

    def play(
        script: StepScript,
        buckets: Sequence[int] | None,
        *,
        are_pauses: bool = True,
        patience: int = ON_GPU.patience,
    ) -> list[pb.StepResult]:
        """Steps are launched before the ones before them are read; between any two there is time to
        record a graph.
        """
        engine.reset()
        engine._graphs = None
        with monkeypatch.context() as patch:
            if buckets is not None:
                patch.setattr(library, "takes", lambda _: True)
                # Sizes at which the interpreter is quick.
                patch.setattr(sample, "_CANDIDATES", 16)
                engine._graphs = DecodeGraphs(
                    model=engine._model,
                    cache=engine._cache,
                    slots=engine._slots,
                    sampler=engine._sampler,
                    grammars=engine._grammars,
                    buckets=buckets,
                    recorder=recorder,
                    policy=replace(ON_GPU, patience=patience),
                    ranks=RankGroup(),
                )
                engine._graphs.record_first()
            answers = []
            for request in script.requests:
                answers.append(engine.begin(request))
                if engine._graphs is not None and are_pauses:
                    engine._graphs.record_next()
            results = [answer() for answer in answers]
        engine.reset()
        return results

    return play


def check_same(actual: list[pb.StepResult], expected: list[pb.StepResult]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert list(one.token_ids) == list(other.token_ids)
        assert one.sampled_checksum == other.sampled_checksum
        assert list(one.logprobs) == pytest.approx(list(other.logprobs), abs=2e-4)


def test_tokens_are_the_same(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    """Sequences come, go and change rows; rows fill up a bucket; blocks are taken on the way."""
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.admit(5, PROMPTS[1], sampling=sampling(do_sample=True, seed=2**63 + 5, temperature=0.8))
    script.step({0: 6, 5: 6})
    script.decode([0, 5], 3)
    script.admit(2, PROMPTS[2], sampling=sampling(do_sample=True, seed=9, top_k=7, top_p=0.9))
    script.step({0: 1, 5: 1, 2: 6})
    script.decode([2, 0, 5], 3)
    script.retire(0)
    script.admit(0, PROMPTS[3], sampling=sampling(repetition_penalty=1.4, frequency_penalty=0.3))
    script.step({0: 6, 2: 1})
    script.decode([5, 0], 3)
    results, expected = play(script, [1, 2, 4]), play(script, None)
    check_same(results, expected)
    assert sum(recorder.replays) == 9
    # What the router counts.
    assert sum(result.is_replayed for result in results) == 9
    assert results[-1].num_graphs == len(recorder.graphs)
    assert not any(result.is_replayed or result.num_graphs for result in expected)


def test_the_best_graph_that_is_there(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    """The largest are there from the start; what steps want is recorded between them."""
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.step({0: 6})
    script.decode([0], 3)
    check_same(play(script, [1, 4]), play(script, None))
    # Four rows with penalties; their logits alone; one row's logits, recorded after the prompt;
    # one row plain, recorded after the first decode.
    assert recorder.replays == [0, 0, 1, 2]


def test_without_a_pause_a_graph_is_recorded_once_many_steps_lacked_it(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    script = StepScript()
    script.admit(0, PROMPTS[0], sampling=sampling(logit_bias_ids=[3], logit_bias_values=[1.0]))
    script.step({0: 6})
    script.decode([0], 5)
    check_same(play(script, [1, 4], are_pauses=False, patience=2), play(script, None))
    # Two steps by the largest, then by one for a single row.
    assert recorder.replays == [0, 2, 3]


def test_a_few_steps_do_not_wait_for_a_recording(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    """Without a pause, all is computed by the graphs that there are."""
    script = StepScript()
    script.admit(0, PROMPTS[0], sampling=sampling(logit_bias_ids=[3], logit_bias_values=[1.0]))
    script.step({0: 6})
    script.decode([0], 2)
    script.retire(0)
    script.admit(0, PROMPTS[0], sampling=sampling(repetition_penalty=1.4))
    script.step({0: 6})
    script.decode([0], 2)
    with_graphs = play(script, [1, 4], are_pauses=False)
    check_same(with_graphs, play(script, None))
    assert recorder.replays == [2, 2]


def test_tokens_of_a_graph_are_known_to_other_steps(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    """More rows than any bucket has, and a chunk beside decodes, after steps of a graph."""
    script = StepScript()
    for slot in (1, 0):
        script.admit(slot, PROMPTS[slot])
        script.step({slot: 6})
        script.decode([slot], 3)
    script.decode([0, 1], 2)
    script.admit(2, PROMPTS[2])
    script.step({0: 1, 2: 6})
    script.decode([2], 1)
    check_same(play(script, [1]), play(script, None))
    assert sum(recorder.replays) == 7


def test_what_the_host_must_know_comes_behind_the_graph(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    """Biases, watermarks and top-n, beside rows that ask for nothing; the layers are replayed."""
    script = StepScript()
    bias = sampling(logit_bias_ids=[3], logit_bias_values=[9.0])
    script.admit(0, PROMPTS[0], sampling=bias)
    script.admit(1, PROMPTS[1], top_n_tokens=2)
    script.admit(2, PROMPTS[2], sampling=sampling(watermark=True))
    script.admit(3, PROMPTS[3], sampling=sampling(do_sample=True, seed=3))
    script.step(dict.fromkeys(range(4), 6))
    for slot in range(3):
        script.decode([slot, 3], 2)
    results = play(script, [1, 2, 4])
    expected = play(script, None)
    check_same(results, expected)
    assert sum(recorder.replays) == sum(result.is_replayed for result in results) == 6
    for one, other in zip(results, expected, strict=True):
        assert list(one.top_n_counts) == list(other.top_n_counts)
        assert list(one.top_n_token_ids) == list(other.top_n_token_ids)
        assert list(one.top_n_logprobs) == pytest.approx(list(other.top_n_logprobs), abs=2e-4)
    assert [list(result.top_n_counts) for result in results[3:5]] == [[2, 0]] * 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted when stream is capturing"),
        OutOfResources(300_000, 232_448, "shared memory"),
    ],
    ids=["torch", "triton"],
)
def test_without_graphs_if_one_cannot_be_recorded(
    error: Exception,
    play: Callable[..., list[pb.StepResult]],
    recorder: FakeRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder.error = error
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.step({0: 6})
    script.decode([0], 4)
    check_same(play(script, [1, 2]), play(script, None))
    assert [
        record.levelname for record in caplog.records if "No decode graphs" in record.message
    ] == ["WARNING"]


def test_graphs_that_are_there_stay_if_another_cannot_be_recorded(
    play: Callable[..., list[pb.StepResult]], recorder: FakeRecorder
) -> None:
    recorder.error, recorder.num_good = RuntimeError("out of memory"), 2
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.step({0: 6})
    script.decode([0], 4)
    check_same(play(script, [1, 4]), play(script, None))
    assert recorder.replays == [0, 4]


def test_no_more_graphs_than_there_is_memory_for(
    play: Callable[..., list[pb.StepResult]],
    recorder: FakeRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is counted when the cache is sized is all that they take later."""
    recorder.bytes_per_graph = ON_GPU.num_bytes((1, 2, 4), 0) // 2
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.step({0: 6})
    script.decode([0], 8)
    check_same(play(script, [1, 2, 4]), play(script, None))
    # Two for the largest bucket, whatever they take, and then what is more than the bound by one.
    assert len(recorder.graphs) == 2 + 3
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "No decode graphs beside 5: their memory is taken"
    ]


def test_default_buckets() -> None:
    assert list(DEFAULT_BUCKETS) == sorted(set(DEFAULT_BUCKETS))
    assert DEFAULT_BUCKETS[0] == 1 and DEFAULT_BUCKETS[-1] == 256


def test_buckets_of_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = RankGroup()
    assert graph_buckets((4, 1), ranks, torch.device("cpu")) == ()
    monkeypatch.setattr(graph_policy, "native_operators", lambda _: None)
    assert graph_buckets(None, ranks, torch.device("cpu")) == ()
    monkeypatch.setattr(library, "takes", lambda _: True)
    assert graph_buckets((4, 1, 4, 0), ranks, torch.device("cpu")) == (1, 4)
    assert graph_buckets((0,), ranks, torch.device("cpu")) == ()
    assert graph_buckets(None, ranks, torch.device("cpu")) == DEFAULT_BUCKETS


@pytest.mark.parametrize(
    ("max_rows", "buckets"), [(1, (1,)), (3, (1, 2, 4)), (4, (1, 2, 4)), (9, (1, 2, 4))]
)
def test_no_graph_is_larger_than_steps_can_be(max_rows: int, buckets: tuple[int, ...]) -> None:
    """It would take memory of the cache, and be the one that stands in for those to come."""
    assert buckets_for((1, 2, 4), max_rows) == buckets
    assert buckets_for((), max_rows) == ()
