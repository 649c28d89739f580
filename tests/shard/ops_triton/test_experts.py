"""A mixture's experts by the kernels against the loop over them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from text_generation_shard.ops.activation_kind import ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.linear import DenseWeight, MatrixStack
from text_generation_shard.ops.mix_experts import mix_experts
from text_generation_shard.ops.route import RoutingRule, route
from text_generation_shard.ops.triton import experts as kernels
from text_generation_shard.ops.triton.expert_tiles import tiles_of_pairs
from torch import Tensor

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """pairs_per_expert: by which tiles are chosen; None: those that there are."""

    tokens: int = 5
    choices: int = 2
    num_experts: int = 4
    hidden: int = 24
    size: int = 20
    activation: GatedActivation = "silu"
    is_biased: bool = False
    has_addend: bool = False
    weighs_inputs: bool = False
    pairs_per_expert: float | None = None
    dtype: torch.dtype = torch.float32


CASES = {
    "one token": Case(tokens=1),
    "odd sizes": Case(tokens=7, choices=3, hidden=35, size=13),
    "most experts empty": Case(tokens=2, num_experts=37),
    "all experts": Case(choices=4),
    "several blocks of outputs": Case(hidden=130, size=70, has_addend=True),
    "gpt-oss": Case(activation=ClampedSwiGLU(limit=1.0, alpha=1.702), is_biased=True),
    "llama 4": Case(choices=1, weighs_inputs=True, has_addend=True),
    "weighed inputs and biases": Case(weighs_inputs=True, is_biased=True, activation="gelu"),
    "tiles of 64": Case(tokens=70, pairs_per_expert=64, has_addend=True),
    "tiles of 128": Case(tokens=90, pairs_per_expert=500, num_experts=3, is_biased=True),
    "more tiles than a group": Case(tokens=40, num_experts=20, size=40, choices=6),
    "float16": Case(tokens=20, dtype=torch.float16, has_addend=True, activation="relu"),
}


@dataclass(frozen=True)
class Inputs:
    x: Tensor
    routing: Routing
    experts: Experts
    addend: Tensor | None


def make_inputs(case: Case, device: torch.device) -> Inputs:
    def made(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(case.dtype)

    def stack(*shape: int) -> MatrixStack:
        dense = made(*shape, scale=shape[-1] ** -0.5)
        return MatrixStack([DenseWeight(matrix) for matrix in dense], dense)

    scores = torch.rand(case.tokens, case.num_experts, device=device)
    chosen = scores.topk(case.choices, dim=-1)
    experts = Experts(
        gate_up=stack(case.num_experts, 2 * case.size, case.hidden),
        down=stack(case.num_experts, case.hidden, case.size),
        activation=case.activation,
        gate_up_bias=made(case.num_experts, 2 * case.size) if case.is_biased else None,
        down_bias=made(case.num_experts, case.hidden) if case.is_biased else None,
    )
    addend = made(case.tokens, case.hidden) if case.has_addend else None
    routing = Routing(chosen.indices, chosen.values.to(case.dtype))
    return Inputs(made(case.tokens, case.hidden), routing, experts, addend)


def mix(call: Call, case: Case, inputs: Inputs) -> Tensor:
    operands = (inputs.x, inputs.routing, inputs.experts, inputs.addend)
    result: Tensor = call(mix_experts, *operands, weighs_inputs=case.weighs_inputs)
    return result


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_against_loop(
    by_kernel: Call,
    by_reference: Call,
    device: torch.device,
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if case.pairs_per_expert is not None:
        tiling = kernels._tiling(case.pairs_per_expert, case.dtype.itemsize)
        monkeypatch.setattr(kernels, "_tiling", lambda *_: tiling)
    inputs = make_inputs(case, device)
    actual, expected = mix(by_kernel, case, inputs), mix(by_reference, case, inputs)
    tolerance = 2e-5 if case.dtype is torch.float32 else 4e-3
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_no_tokens(by_kernel: Call, device: torch.device) -> None:
    case = Case(tokens=0)
    assert mix(by_kernel, case, make_inputs(case, device)).shape == (0, case.hidden)


def test_rows_of_one_expert(by_kernel: Call, by_reference: Call, device: torch.device) -> None:
    """Rows that fill up a bucket choose alike: one expert has all, the last or the first."""
    case = Case(tokens=33, choices=1, num_experts=3)
    inputs = make_inputs(case, device)
    for expert in (0, 2):
        inputs.routing.expert_ids.fill_(expert)
        actual, expected = mix(by_kernel, case, inputs), mix(by_reference, case, inputs)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "rule",
    [
        RoutingRule(scoring="sparse_mixer", experts_per_token=2),
        RoutingRule(scoring="softmax", experts_per_token=2, groups=3, chosen_groups=2),
    ],
)
def test_a_router_that_does_not_ask_the_device(rule: RoutingRule) -> None:
    """A tensor without values could not be asked."""
    x, weight = (torch.empty(size, 8, device="meta") for size in (3, 6))
    routing = route(x, weight, None, rule)
    assert routing.expert_ids.shape == routing.weights.shape == (3, 2)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("pairs", [1, 63, 2048, 2500])
def test_sort(by_kernel: Call, device: torch.device, pairs: int, rows: int) -> None:
    """Every pair once, behind those of lower experts; every tile filled in."""
    num_experts = 6
    expert_ids = torch.randint(0, num_experts - 1, (pairs,), device=device)
    order, tiles = by_kernel(tiles_of_pairs, expert_ids, num_experts, rows)
    assert order.tolist() == expert_ids.argsort(stable=True).tolist()
    assert len(tiles) == pairs // rows + num_experts
    covered: list[int] = []
    for expert, first, count in tiles.tolist():
        assert 0 <= count <= rows
        if count:
            assert set(expert_ids[order[first : first + count].long()].tolist()) == {expert}
        covered += range(first, first + count)
    assert covered == list(range(pairs))
