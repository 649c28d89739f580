"""A shard that serves on a GPU, as far as a machine without one can tell: see `virtual_gpu`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.ops.triton import sample
from text_generation_shard.runner.cuda_graph import CudaGraphRecorder
from text_generation_shard.sampling.sampler import Sampler
from text_generation_shard.shard import Shard
from text_generation_shard.weights import staged_reads

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import running_shard, warmup_request
from tests.shard.models.families import PROMPT, write_model
from tests.shard.ops_triton.interpreter import take_scalars_as_indices
from tests.shard.step_script import StepScript, sampling
from tests.shard.virtual_gpu import DEVICE, VirtualGpu, virtual_gpu

PROMPTS = [
    [(7 * index * index + slot) % VOCAB_SIZE for index in range(6 + slot)] for slot in (0, 1)
]
# Contexts of more than one piece; block tables of another width than warmup has, of 80 blocks.
LIMITS = {"max_slots": 2, "max_step_tokens": 24, "max_total_tokens": 319}

pytestmark = pytest.mark.skipif(
    os.environ["TRITON_INTERPRET"] != "1", reason="kernels must run in the interpreter"
)


@pytest.fixture(scope="module", autouse=True)
def _scalars_as_indices() -> None:
    take_scalars_as_indices()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualGpu]:
    # Sizes at which the interpreter is quick.
    monkeypatch.setattr(sample, "_CANDIDATES", 16)
    monkeypatch.setattr(sample, "_TILE", 256)
    monkeypatch.setattr(staged_reads, "BUFFER_BYTES", 1 << 14)
    with virtual_gpu(monkeypatch) as gpu, np.errstate(all="ignore"):
        yield gpu


def script() -> StepScript:
    """Greedy, drawn, filtered and penalised rows, beside chunks and alone."""
    script = StepScript()
    script.admit(0, PROMPTS[0])
    script.step({0: 6})
    script.decode([0], 2)
    script.admit(1, PROMPTS[1], sampling=sampling(do_sample=True, seed=2**63 + 5, top_k=7))
    script.step({0: 1, 1: 4})
    script.step({0: 1, 1: 3})
    script.decode([1, 0], 1)
    script.retire(1)
    script.admit(1, PROMPTS[1], sampling=sampling(repetition_penalty=1.4, top_p=0.9))
    script.step({0: 1, 1: 7})
    script.decode([0, 1], 1)
    script.retire(1)
    bias = sampling(logit_bias_ids=[3], logit_bias_values=[9.0], watermark=True)
    script.admit(1, PROMPTS[1], sampling=bias)
    script.step({1: 7})
    script.decode([1], 1)
    return script


def record_a_graph(shard: Shard, gpu: VirtualGpu) -> None:
    """In a pause, which two calls one after the other are."""
    gpu.may_wait = True
    assert shard.work_while_idle()
    shard.work_while_idle()
    gpu.may_wait = False


def test_a_served_step_waits_for_nothing_and_compiles_nothing(
    checkpoint: Checkpoint, gpu: VirtualGpu
) -> None:
    """All steps are launched before one is read, and graphs are recorded on the way."""
    steps, answers = script(), []
    with running_shard(
        checkpoint.path, dtype="float32", cuda_graphs=(1, 2), warmup=warmup_request(**LIMITS)
    ) as shard:
        assert shard.info().device_type == "cuda"
        assert shard.graphs is not None and shard.graphs.count == 2
        compiled = set(gpu.launched)
        gpu.forbid_waiting()
        for request in steps.requests:
            answers.append(shard.begin(request))
            if request.step % 4 == 0:
                record_a_graph(shard, gpu)
        tokens = steps.tokens([answer() for answer in answers])
        assert shard.graphs.count == 2 + len(steps.requests) // 4
    assert tokens[0] == checkpoint.greedy(PROMPTS[0], len(tokens[0]))
    assert {name for name, *_ in compiled} >= {"_decode_kernel", "_combine_kernel", "draw_kernel"}
    assert sorted(map(str, gpu.launched - compiled)) == []


def test_in_sixteen_bits(tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16, with which the interpreter is quicker. Products of one row have a kernel of their
    own; windows, sinks, experts, an 8-bit cache. The sampler is the same as above.
    """
    monkeypatch.setattr(Sampler, "compile_kernels", lambda *_: None)
    write_model("gpt_oss", tmp_path)
    steps = StepScript()
    steps.admit(0, PROMPT[:5])
    steps.step({0: 5})
    steps.decode([0], 1)
    with running_shard(
        tmp_path,
        dtype="float16",
        kv_cache_dtype="fp8_e4m3fn",
        cuda_graphs=(1,),
        warmup=warmup_request(max_slots=1, max_step_tokens=6, max_total_tokens=12),
    ) as shard:
        assert shard.graphs is not None and shard.graphs.count == 2
        compiled = set(gpu.launched)
        gpu.forbid_waiting()
        answers = [shard.begin(request) for request in steps.requests]
        assert len(steps.tokens([answer() for answer in answers])[0]) == 2
    assert "_gemv_kernel" in {name for name, *_ in compiled}
    assert sorted(map(str, gpu.launched - compiled)) == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 1],
        lambda x: x[torch.tensor([0])],
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(4)),
        lambda x: x.to("cpu", non_blocking=False),
        lambda _: torch.tensor([1.0], device=DEVICE),
        lambda x: torch.ones(4).to(x.device, non_blocking=True),
    ],
)
def test_what_waits_is_seen(wait: Callable[[torch.Tensor], object], gpu: VirtualGpu) -> None:
    x = torch.arange(4.0, device=DEVICE)
    wait(x)
    gpu.forbid_waiting()
    to_device(torch.ones(4), DEVICE)
    with pytest.raises(AssertionError, match="waits for the device"):
        wait(x)
    with pytest.raises(AssertionError, match="tensor of the host"):
        x + torch.ones(4)


def test_a_copy_is_as_late_as_it_may_be(gpu: VirtualGpu) -> None:
    pinned, x, event = torch.ones(3).pin_memory(), torch.empty(3, device=DEVICE), torch.cuda.Event()
    x.copy_(pinned, non_blocking=True)
    event.record()
    event.synchronize()
    pinned.fill_(2)
    assert x.tolist() == [1] * 3
    x.copy_(pinned, non_blocking=True)
    event.synchronize()
    pinned.fill_(3)
    y = x.view(torch.int32)
    assert y.view(torch.float32).tolist() == [3] * 3, "the event was recorded before"


def test_a_graph_is_what_was_recorded(gpu: VirtualGpu) -> None:
    """It reads memory, not the host's variables; a copy from the host is no part of it."""
    recorder, factor = CudaGraphRecorder(DEVICE), 2
    x, y = torch.ones(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    graph = recorder.record(lambda: y.copy_(x[1:2] * factor + x))
    factor = 100
    x.fill_(5)
    gpu.forbid_waiting()
    graph.replay()
    assert y.to("cpu", non_blocking=True).tolist() == [15] * 3
    gpu.may_wait = True
    with pytest.raises(AssertionError, match="between host and device is recorded"):
        recorder.record(lambda: y.copy_(to_device(torch.ones(3), DEVICE)))
