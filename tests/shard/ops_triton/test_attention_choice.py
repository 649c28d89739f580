"""What --attention chooses. Kernels of others are functions that stand in for them; ours run in
Triton's interpreter.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from text_generation_shard import attention_choice
from text_generation_shard.attention_choice import PromptShape, PromptTrial, choose_attention
from text_generation_shard.errors import CapacityError
from text_generation_shard.kv_cache import KVCacheSpec
from text_generation_shard.ops import flash_attention
from text_generation_shard.ops.cpu import library as cpu_library
from text_generation_shard.ops.flash_attention import FlashAttention, Masking
from text_generation_shard.ops.triton import library
from text_generation_shard.runner import graph_policy
from text_generation_shard.sampling.sampler import Sampler
from torch import Tensor

from tests.shard.engines import running_shard, warmup_request
from tests.shard.models.families import write_model
from tests.shard.ops_triton.test_attention import IS_INTERPRETED
from tests.shard.ops_triton.test_family_steps import play
from tests.shard.ops_triton.test_flash_attention import exact

if not IS_INTERPRETED:
    pytest.skip("the functions that stand in compute on the CPU", allow_module_level=True)

SPEC = KVCacheSpec(
    num_layers=3, num_kv_heads=2, head_dim=16, dtype=torch.float16, device=torch.device("cpu")
)
SHAPE = PromptShape(spec=SPEC, num_heads=4, windows=(8, None), block_size=4, max_step_tokens=21)
WARMUP = warmup_request(max_slots=2, max_step_tokens=4)


def right(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
    scores = {"scale": masking.scale, "soft_cap": masking.soft_cap}
    return exact(query, keys, values, sides=masking.sides, **scores)


def wrong(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
    """As if causal meant the first keys."""
    return right(query, keys, values, masking).roll(1, 0)


def failing(*_: object) -> Tensor:
    raise RuntimeError("no kernel image\nis available")


def silent(query: Tensor, *_: object) -> Tensor:
    return torch.full_like(query, torch.nan)


FAST = FlashAttention(name="fast", attend=right)
FASTEST = FlashAttention(name="fastest", attend=lambda *args: right(*args))
WRONG = FlashAttention(name="wrong", attend=wrong)
FAILING = FlashAttention(name="failing", attend=failing)
SILENT = FlashAttention(name="silent", attend=silent)
TIMES = {None: 10.0, "fast": 9.0, "fastest": 8.0, "wrong": 1.0, "failing": 1.0, "silent": 1.0}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FlashAttention]]:
    """Those of flash attention; a test fills the list. cuDNN's cannot be used."""
    found: list[FlashAttention] = []

    def milliseconds(_: PromptTrial, kernel: FlashAttention | None) -> float:
        return TIMES[None if kernel is None else kernel.name]

    monkeypatch.setattr(library, "takes", lambda _: True)
    monkeypatch.setattr(attention_choice, "flash_kernels", lambda: found)
    monkeypatch.setattr(attention_choice, "CUDNN", FAILING)
    monkeypatch.setattr(PromptTrial, "milliseconds", milliseconds)
    yield found


def test_the_fastest(kernels: list[FlashAttention], caplog: pytest.LogCaptureFixture) -> None:
    """Of those that compute the same, with the times of all in the log."""
    kernels += [FAST, WRONG, SILENT, FASTEST]
    with caplog.at_level(logging.INFO):
        assert choose_attention("auto", SHAPE) is FASTEST
    measured = [record for record in caplog.records if record.msg.startswith("Measured")]
    assert [record.fields for record in measured] == [  # type: ignore[attr-defined]
        {
            "tokens": 21,
            "milliseconds": {"Triton": 10.0, "fast": 9.0, "fastest": 8.0},
            "chosen": "fastest",
        }
    ]
    texts = [record.getMessage() for record in caplog.records]
    assert any("wrong's: its results differ from ours by" in text for text in texts)
    assert any("silent's: its results differ" in text for text in texts)
    assert "Attention to prompts is not failing's: no kernel image is available" in texts


def test_a_small_gain_is_noise(
    kernels: list[FlashAttention], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.append(FAST)
    monkeypatch.setitem(TIMES, "fast", 9.8)
    assert choose_attention("auto", SHAPE) is None


def test_every_run_that_is_timed_is_of_a_new_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does once for each length, which prompts all differ in, is part of its time."""
    monkeypatch.setattr(library, "takes", lambda _: True)
    lengths: list[int] = []

    def noted(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
        lengths.append(len(query))
        return right(query, keys, values, masking)

    trial, kernel = PromptTrial(SHAPE), FlashAttention(name="noted", attend=noted)
    assert trial.obstacle(kernel) is None and lengths == [21]
    assert trial.milliseconds(kernel) > 0
    assert lengths == [21, 20, 19, 18, 17, 16]


def test_by_name(kernels: list[FlashAttention]) -> None:
    """Slower ones, too; the first that works."""
    kernels += [FAILING, FAST, FASTEST]
    assert choose_attention("triton", SHAPE) is None
    chosen = choose_attention("flash", SHAPE)
    assert chosen is not None
    assert (chosen.name, chosen.is_required) == ("fast", True)


def test_by_a_name_that_is_not_possible(kernels: list[FlashAttention]) -> None:
    kernels += [WRONG]
    with pytest.raises(CapacityError, match=r"--attention flash is not possible here \(wrong: "):
        choose_attention("flash", SHAPE)
    with pytest.raises(CapacityError, match=r"--attention cudnn .*no kernel image is available"):
        choose_attention("cudnn", SHAPE)


@pytest.mark.parametrize("name", ["paged", "flashdecoding", "flashinfer"])
def test_names_of_tgi(
    kernels: list[FlashAttention], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kernels.append(FAST)
    assert choose_attention(name, SHAPE) is FAST  # type: ignore[arg-type]
    assert f"--attention {name}: TGI's kernels are not part of this server" in caplog.text


def test_without_a_gpu() -> None:
    assert choose_attention("auto", SHAPE) is None
    for name in ("triton", "flash", "cudnn"):
        with pytest.raises(CapacityError, match=f"--attention {name}: only with a GPU"):
            choose_attention(name, SHAPE)  # type: ignore[arg-type]


def test_serving(
    kernels: list[FlashAttention], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the option to the tokens: prompts are read by the kernel that was chosen, and the
    workspace that it needs is there. In float32, and with heads of 12, as this small model is.
    """
    lengths: list[int] = []

    def counted(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
        lengths.append(len(query))
        return right(query, keys, values, masking)

    kernels.append(FlashAttention(name="fast", attend=counted))
    monkeypatch.setattr(flash_attention, "_DTYPES", (torch.float32,))
    monkeypatch.setattr(flash_attention, "_HEAD_UNIT", 4)
    monkeypatch.setattr(cpu_library, "operators", lambda: None)
    monkeypatch.setattr(graph_policy, "DEFAULT_BUCKETS", ())
    monkeypatch.setattr(Sampler, "compile_kernels", lambda *_: None)
    write_model("qwen2", tmp_path)
    with running_shard(tmp_path, warmup=WARMUP, attention="flash") as shard:
        engine = shard._engine
        assert engine is not None
        during_warmup = len(lengths)
        actual = play(engine, None)
    assert len(lengths) > during_warmup > 0
    monkeypatch.setattr(library, "takes", lambda _: False)
    with running_shard(tmp_path, warmup=WARMUP) as shard:
        engine = shard._engine
        assert engine is not None
        expected = play(engine, None)
    for one, other in zip(actual, expected, strict=True):
        assert list(one.token_ids) == list(other.token_ids)
        assert list(one.logprobs) == pytest.approx(list(other.logprobs), abs=1e-3)
