"""Chunks by kernels that others wrote, which run on a GPU alone: here functions that take the same
arguments and compute the same stand in for them, and what they are given is looked at.
"""

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from text_generation_shard.errors import CapacityError
from text_generation_shard.ops import flash_attention
from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.flash_attention import CUDNN, FlashAttention, flash_kernels
from torch import Tensor
from torch.nn.attention import varlen

from tests.shard.ops_triton.test_attention import IS_INTERPRETED, Case, attend, make_inputs

Call = Callable[..., Any]
if not IS_INTERPRETED:
    pytest.skip("the functions that stand in compute on the CPU", allow_module_level=True)


def exact(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    sides: tuple[int, int],
    soft_cap: float = 0.0,
) -> Tensor:
    """Attention of one sequence, the queries being its last tokens, as the paper writes it.
    query: [tokens, num_heads, head_dim]; keys, values: [context, num_kv_heads, head_dim].
    """
    repeats = query.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(repeats, dim=1).double() for x in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query.double(), keys) * scale
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    last = torch.arange(len(keys) - len(query), len(keys))[:, None]
    places = torch.arange(len(keys))
    before, after = sides
    seen = torch.ones(len(query), len(keys), dtype=torch.bool)
    if before >= 0:
        seen &= places >= last - before
    if after >= 0:
        seen &= places <= last + after
    shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, values).to(query.dtype)


def varlen_attn_of_2_11(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.tolist() == [0, max_q] == [0, len(query)]
    assert cu_seq_k.tolist() == [0, max_k] == [0, len(key)]
    assert scale is not None and window_size[1] == 0 and return_aux is None
    return exact(query, key, value, scale=scale, sides=window_size)


def varlen_attn_since_2_12(*args: Any, enable_gqa: bool = False, **options: Any) -> Tensor:
    assert enable_gqa
    return varlen_attn_of_2_11(*args, **options)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """As the packages have it: causal means that nothing after a query is seen."""
    assert q.shape[0] == 1 and softmax_scale is not None
    sides = (window_size[0], 0 if causal else window_size[1])
    return exact(q[0], k[0], v[0], scale=softmax_scale, sides=sides, soft_cap=softcap)[None]


def third_flash_attn_func(*args: Any, **options: Any) -> tuple[Tensor, None]:
    """Its first releases return the sums of the softmax, too."""
    return flash_attn_func(*args, **options), None


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FlashAttention]]:
    """All that there may be."""
    for name, function in (
        ("flash_attn", flash_attn_func),
        ("flash_attn_interface", third_flash_attn_func),
    ):
        module = types.ModuleType(name)
        module.__spec__ = importlib_spec(name)
        module.flash_attn_func = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn_of_2_11)
    flash_kernels.cache_clear()
    found = flash_kernels()
    assert [each.name for each in found] == [
        "flash-attn 3",
        "flash-attn",
        "torch's flash attention",
    ]
    yield {each.name: each for each in found}
    flash_kernels.cache_clear()


def importlib_spec(name: str) -> Any:
    from importlib.machinery import ModuleSpec

    return ModuleSpec(name, loader=None)


class Counted:
    """How many chunks a kernel was given."""

    def __init__(self, kernel: FlashAttention) -> None:
        self.chunks = 0
        self.kernel = replace(kernel, attend=self._attend)
        self._of = kernel.attend

    def _attend(self, *args: Any) -> Tensor:
        self.chunks += 1
        return self._of(*args)


CASES = {
    "plain": Case(dtype=torch.float16),
    "window": Case(dtype=torch.float16, window=5),
    "window of one": Case(dtype=torch.float16, window=1),
    "wide window": Case(dtype=torch.float16, window=33, requests=((1, 3), (40, 70))),
    "one kv head": Case(dtype=torch.float16, heads=(5, 1)),
    "80 dims": Case(dtype=torch.float16, head_dim=80, heads=(2, 1), block_size=16),
}
NAMES = ["flash-attn 3", "flash-attn", "torch's flash attention"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_against_reference(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    kernels: dict[str, FlashAttention],
    name: str,
    case: Case,
) -> None:
    """Decode rows in the same step are our kernel's."""
    inputs, counted = make_inputs(case, device), Counted(kernels[name])
    actual = attend(by_kernel, case, inputs, counted.kernel)
    assert counted.chunks == sum(length > 1 for length, _ in case.requests)
    expected = attend(by_reference, case, inputs)
    torch.testing.assert_close(actual, expected, atol=4e-3, rtol=4e-3)


@pytest.mark.parametrize("name", NAMES[:2])
def test_soft_cap(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    kernels: dict[str, FlashAttention],
    name: str,
) -> None:
    case = Case(dtype=torch.float16, soft_cap=1.5, window=20)
    inputs, counted = make_inputs(case, device), Counted(kernels[name])
    actual = attend(by_kernel, case, inputs, counted.kernel)
    assert counted.chunks == 2
    torch.testing.assert_close(actual, attend(by_reference, case, inputs), atol=4e-3, rtol=4e-3)


OBSTACLES = {
    "keys that are float32": Case(),
    "8 bits": Case(cache_dtype=torch.float8_e4m3fn, dtype=torch.float16),
    "odd dims": Case(dtype=torch.float16, head_dim=20),
    "chunks": Case(dtype=torch.float16, window=AttentionChunk(7)),
    "slopes": Case(dtype=torch.float16, has_slopes=True),
    "distances": Case(dtype=torch.float16, num_distances=9),
    "sinks": Case(dtype=torch.float16, has_sinks=True),
    "cap": Case(dtype=torch.float16, soft_cap=1.5),
}


@pytest.mark.parametrize("case", list(OBSTACLES.values()), ids=list(OBSTACLES))
def test_what_it_cannot_compute(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    kernels: dict[str, FlashAttention],
    case: Case,
) -> None:
    """Our kernel does, unless the other one was asked for by name."""
    inputs, counted = make_inputs(case, device), Counted(kernels["torch's flash attention"])
    actual = attend(by_kernel, case, inputs, counted.kernel)
    assert counted.chunks == 0
    torch.testing.assert_close(actual, attend(by_reference, case, inputs), atol=4e-3, rtol=4e-3)
    with pytest.raises(CapacityError, match="--attention: torch's flash attention does not"):
        attend(by_kernel, case, inputs, replace(counted.kernel, is_required=True))


@pytest.mark.parametrize(
    ("requests", "window", "chunks"),
    [
        (((1, 30), (9, 9), (20, 20)), None, 2),
        (((9, 9), (20, 21)), None, 0),
        (((9, 9), (20, 20)), 50, 0),
    ],
    ids=["fresh", "one has a context", "window"],
)
def test_cudnn_reads_fresh_prompts(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    requests: tuple[tuple[int, int], ...],
    window: Window,
    chunks: int,
) -> None:
    """torch has no such kernel on the CPU: what it computes there, with the same arguments."""
    asked = []

    class AnyBackend:
        def __init__(self, backend: object) -> None:
            asked.append(backend)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(flash_attention, "sdpa_kernel", AnyBackend)
    case = Case(dtype=torch.float16, requests=requests, window=window)
    inputs, counted = make_inputs(case, device), Counted(CUDNN)
    actual = attend(by_kernel, case, inputs, counted.kernel)
    assert counted.chunks == chunks
    assert asked == [flash_attention.SDPBackend.CUDNN_ATTENTION] * chunks
    torch.testing.assert_close(actual, attend(by_reference, case, inputs), atol=4e-3, rtol=4e-3)


def test_torch_is_told_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 2.12 on."""
    query, keys = torch.randn(3, 4, 8), torch.randn(5, 2, 8)
    ends = (torch.tensor([0, len(x)], dtype=torch.int32) for x in (query, keys))
    masking = flash_attention.Masking(*ends, None, 0.3, 0.0)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn_since_2_12)
    actual = flash_attention.by_torch(query, keys, keys, masking)
    expected = F.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (query, keys, keys)),
        attn_mask=torch.ones(3, 5, dtype=torch.bool).tril(2),
        scale=0.3,
        enable_gqa=True,
    )
    torch.testing.assert_close(actual, expected.transpose(0, 1))


def test_the_functions_that_stand_in_look_like_torchs() -> None:
    """All arguments of 2.11's have the same names and places in the installed version's."""
    installed = inspect.signature(varlen.varlen_attn).parameters
    for name, parameter in inspect.signature(varlen_attn_of_2_11).parameters.items():
        assert installed[name].kind == parameter.kind, name
