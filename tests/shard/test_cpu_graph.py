"""Functions recorded on the CPU: what a replay computes, and where; and what is refused."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.linear import pack
from text_generation_shard.ops.rms_norm import rms_norm
from text_generation_shard.runner.cpu_graph import CpuGraphRecorder
from text_generation_shard.runner.step_graph import RecordingRefusedError
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

pytestmark = pytest.mark.skipif(library.operators() is None, reason="no C++ operators")

SIZE = 48


def discard(made: object) -> None:
    """For functions of which only the effect counts."""


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Layers:
    """Operators of both kinds, which write to memory that stays."""

    def __init__(self, seed: int, rows: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.generator = generator
        matrices = [torch.randn(SIZE, SIZE, generator=generator) / 7 for _ in range(4)]
        self.weights = [pack(matrix, "float32") for matrix in matrices]
        self.norm = torch.rand(SIZE, generator=generator)
        self.x = torch.empty(rows, SIZE)
        self.out = torch.empty(rows, SIZE)
        self.fill()

    def fill(self) -> None:
        self.x.normal_(generator=self.generator)

    def forward(self) -> Tensor:
        stream = self.x * 1.5
        for weight in self.weights:
            normed = rms_norm(stream, self.norm, 1e-5)
            turned = torch.cat((-normed[:, 24:], normed[:, :24]), dim=-1)
            stream = weight(turned, None, stream).view(-1, 2, 24).flatten(1)
            stream[:, 3:5].mul_(0.5)
        index = torch.tensor([len(stream) - 1])
        stream[index] += 1
        return stream.to(torch.bfloat16).float() + torch.arange(SIZE)

    def compute(self) -> None:
        self.out.copy_(self.forward())


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_replay_computes_what_the_function_would(rows: int) -> None:
    layers = Layers(rows, rows)
    graph = CpuGraphRecorder().record(layers.compute)
    for _ in range(3):
        layers.fill()
        expected = layers.forward()
        graph.replay()
        assert torch.equal(layers.out, expected)


def test_graphs_share_memory_and_compute_in_any_order() -> None:
    recorder = CpuGraphRecorder()
    models = [Layers(seed, rows) for seed, rows in enumerate((5, 1, 9, 3))]
    graphs = [recorder.record(model.compute) for model in models]
    gc.collect()
    for chosen in (2, 0, 3, 1, 2, 3):
        models[chosen].fill()
        graphs[chosen].replay()
        assert torch.equal(models[chosen].out, models[chosen].forward())


def test_memory_is_given_out_again_as_the_step_frees_it() -> None:
    """Many layers take no more of it than a few."""
    recorder = CpuGraphRecorder()
    x, out = torch.randn(4, SIZE), torch.empty(4, SIZE)

    def deep(layers: int) -> Callable[[], None]:
        def compute() -> None:
            stream = x
            for _ in range(layers):
                stream = stream * 1.001 + 1
            out.copy_(stream)

        return compute

    recorder.record(deep(3))
    taken = recorder.num_bytes
    recorder.record(deep(300))
    assert 0 < recorder.num_bytes == taken


def test_memory_that_somebody_holds_is_not_given_out() -> None:
    """Neither the numbers nor the views of them; also by a later recording."""
    recorder = CpuGraphRecorder()
    x, kept = torch.randn(3, SIZE), []

    def compute() -> None:
        for factor in range(20):
            made = x * factor
            if factor % 5 == 0:
                kept.append(made[1:, ::2])

    recorder.record(compute)
    expected = [(x * factor)[1:, ::2].clone() for factor in range(0, 20, 5)]
    recorder.record(lambda: discard(x.mul(7).add(1)))
    for one, other in zip(kept, expected, strict=True):
        assert torch.equal(one, other)
    places = {made.untyped_storage().data_ptr() for made in kept}
    assert len(places) == len(kept)


def test_threads_are_those_of_the_replay() -> None:
    layers = Layers(3, 4)
    graph = CpuGraphRecorder().record(layers.compute)
    layers.fill()
    expected = layers.forward()
    try:
        library.set_num_threads(2)
        graph.replay()
    finally:
        library.set_num_threads(1)
    assert torch.equal(layers.out, expected)


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("item", lambda x: x * x[0, 0].item()),
        ("tolist", lambda x: x * x[0].tolist()[0]),
        ("numpy", lambda x: torch.from_numpy(x.numpy() + 1)),
        ("nonzero", lambda x: x[x.nonzero()[0]]),
        ("index", lambda x: x[x > 0]),
        ("is_nonzero", lambda x: x if x[0, 0] else -x),
        ("equal", lambda x: x if torch.equal(x, x + 1) else -x),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("repeat_interleave", lambda x: x.repeat_interleave((x[:, 0] > 0).long() + 1, 0)),
        ("unique", lambda x: x.unique()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_depends_on_numbers_is_refused(name: str, compute: Callable[[Tensor], Tensor]) -> None:
    recorder = CpuGraphRecorder()
    x = torch.randn(3, 4)
    with pytest.raises(RecordingRefusedError, match=name):
        recorder.record(lambda: discard(compute(x)))
    # And the next one is not disturbed.
    layers = Layers(0, 2)
    graph = recorder.record(layers.compute)
    graph.replay()
    assert torch.equal(layers.out, layers.forward())


def test_tensors_that_compute_in_python_are_refused() -> None:
    """As those of transformers' tensor parallelism: before any of their operators was called."""
    x = TwoTensor(torch.ones(2), torch.ones(2))
    with (
        mock.patch.object(TwoTensor, "__torch_dispatch__") as dispatched,
        pytest.raises(RecordingRefusedError, match="compute in Python"),
    ):
        CpuGraphRecorder().record(lambda: discard(x + 1))
    assert not dispatched.called


def test_a_replay_checks_what_it_reads() -> None:
    table = pack(torch.randn(5, SIZE), "float32")
    ids, out = torch.tensor([4, 0]), torch.empty(2, SIZE)
    graph = CpuGraphRecorder().record(lambda: discard(out.copy_(table.rows(ids))))
    ids[0] = 5
    with pytest.raises(RuntimeError, match="row 5 of 5"):
        graph.replay()


def test_shown_values_are_read_where_they_are() -> None:
    """And keep no memory from other recordings, whose replays may overwrite them."""
    recorder = CpuGraphRecorder()
    layers = [Layers(seed, 3) for seed in range(2)]
    shown: list[Tensor] = []

    def recorded(i: int) -> Callable[[], None]:
        return lambda: shown.append(recorder.show(layers[i].forward()[:, 1:], torch.empty(0)))

    graphs = [recorder.record(recorded(i)) for i in range(2)]
    num_bytes = recorder.num_bytes
    recorder.record(recorded(0))
    assert recorder.num_bytes == num_bytes
    for i in (1, 0, 1):
        layers[i].fill()
        expected = layers[i].forward()[:, 1:]
        graphs[i].replay()
        assert torch.equal(shown[i], expected)


def test_a_replay_waits_for_what_others_write() -> None:
    """As often as it is told to; and not for those of a step that was given up."""
    gate, x, out = library.gate(), torch.zeros(4), torch.zeros(4)

    def compute() -> None:
        gate.wait()
        out.copy_(x + 1)

    graph = CpuGraphRecorder().record(compute)

    def replay_there() -> None:
        with torch.inference_mode():
            graph.replay()

    given_up = gate.expect(1)
    for value in range(3):
        step = gate.expect(2)
        gate.arrive(given_up)
        replay = threading.Thread(target=replay_there)
        replay.start()
        gate.arrive(step)
        replay.join(0.02)
        assert replay.is_alive()
        x.fill_(value)
        gate.arrive(step)
        replay.join()
        assert out.tolist() == [value + 1] * 4
    gate.expect(0)
    graph.replay()


def test_a_recording_does_not_load_torchs_compiler() -> None:
    """It took a second of every start, and 100 MB."""
    program = """
import sys, torch
from text_generation_shard.runner.cpu_graph import CpuGraphRecorder
out = torch.zeros(3)
CpuGraphRecorder().record(lambda: out.add_(torch.ones(3)))
assert out.tolist() == [1, 1, 1]
print({"sympy", "torch._dynamo"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
