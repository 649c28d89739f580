"""Steps of whole models by the kernels and in graphs, against torch's functions."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.batch.slots import SlotLimits
from text_generation_shard.distributed import RankGroup
from text_generation_shard.engine import Engine
from text_generation_shard.ops.cpu import library as cpu_library
from text_generation_shard.ops.triton import library
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.graph_policy import can_be_recorded
from text_generation_shard.runner.step_graph import copied

from tests.shard.engines import running_shard
from tests.shard.models.families import OTHER, PROMPT, write_model
from tests.shard.step_script import StepScript

FAMILIES = ["qwen2_moe", "gpt_oss", "llama4_text", "deepseek_v3"]
# What makes the host wait for a GPU.
WAITING = ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__")


@dataclass
class Recorded:
    compute: Callable[[], None]

    def replay(self) -> None:
        with refusing_to_wait():
            self.compute()


class StrictRecorder:
    """What a GPU's recorder refuses fails here, too; so does every replay."""

    num_bytes = 0
    show = staticmethod(copied)

    def __init__(self) -> None:
        self.graphs: list[Recorded] = []

    def record(self, compute: Callable[[], None]) -> Recorded:
        graph = Recorded(compute)
        graph.replay()
        self.graphs.append(graph)
        return graph


@contextlib.contextmanager
def refusing_to_wait() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the host waits for the device")

    with pytest.MonkeyPatch.context() as patch:
        for name in WAITING:
            patch.setattr(torch.Tensor, name, refuse)
        patch.setattr(torch, "bincount", refuse)
        yield


def script() -> StepScript:
    """Two chunks, then decodes of two rows."""
    steps = StepScript()
    steps.admit(0, PROMPT)
    steps.admit(1, OTHER[:5])
    steps.step({0: len(PROMPT), 1: 5})
    steps.decode([0, 1], 2)
    return steps


def play(engine: Engine, graphs: DecodeGraphs | None) -> list[pb.StepResult]:
    engine.reset()
    engine._graphs = graphs
    results = [engine.step(request) for request in script().requests]
    engine.reset()
    return results


@pytest.mark.parametrize("family", FAMILIES)
def test_steps(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens, and a graph that never asks the device."""
    monkeypatch.setattr(cpu_library, "operators", lambda: None)
    write_model(family, tmp_path)
    recorder = StrictRecorder()
    with running_shard(tmp_path) as shard:
        engine = shard._engine
        assert engine is not None
        expected = play(engine, None)
        limits: SlotLimits = engine._slots._limits
        assert can_be_recorded(engine._model, limits)
        monkeypatch.setattr(library, "takes", lambda _: True)
        graphs = DecodeGraphs(
            model=engine._model,
            cache=engine._cache,
            slots=engine._slots,
            sampler=engine._sampler,
            grammars=engine._grammars,
            buckets=[2],
            recorder=recorder,
            ranks=RankGroup(),
        )
        assert graphs.record_next()
        actual = play(engine, graphs)
    assert len(recorder.graphs) == 1
    for one, other in zip(actual, expected, strict=True):
        assert list(one.token_ids) == list(other.token_ids)
        assert list(one.logprobs) == pytest.approx(list(other.logprobs), abs=1e-3)
