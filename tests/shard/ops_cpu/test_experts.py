"""Choosing experts and mixing what they make, against the torch references."""

from typing import Any

import pytest
import torch
from text_generation_shard.ops.activation import native_activation, softplus
from text_generation_shard.ops.activation_kind import ClampedSwiGLU, GatedActivation
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.linear import MatrixStack, PackedWeight
from text_generation_shard.ops.mix_experts import mix_experts
from text_generation_shard.ops.route import RoutingRule, native_rule, route, weigh_by_gate
from text_generation_shard.ops.temperature import log_temperature

HIDDEN, SIZE = 75, 40
RULES: dict[str, dict[str, Any]] = {
    "mixtral": {"scoring": "softmax", "experts_per_token": 2, "is_normalised": True},
    "qwen2": {"scoring": "softmax", "experts_per_token": 4},
    "llama4": {"scoring": "sigmoid", "experts_per_token": 1},
    "deepseek v2": {
        "scoring": "softmax",
        "experts_per_token": 3,
        "scale": 1.5,
        "groups": 4,
        "chosen_groups": 2,
    },
    "deepseek v3": {
        "scoring": "sigmoid",
        "experts_per_token": 5,
        "is_normalised": True,
        "scale": 2.5,
        "groups": 4,
        "chosen_groups": 3,
        "group_members": 2,
        "choice_bias": True,
    },
    "all": {"scoring": "softmax", "experts_per_token": 12},
    "phimoe": {"scoring": "sparse_mixer", "experts_per_token": 2},
}


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(torch.seed() % 2**32)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("has_bias", [True, False])
def test_route(operators: Operators, name: str, rows: int, has_bias: bool) -> None:
    num_experts, settings = 12, dict(RULES[name])
    if settings.pop("choice_bias", False):
        settings["choice_bias"] = torch.randn(num_experts) / 5
    rule = RoutingRule(**settings)
    x, weight = torch.randn(rows, HIDDEN), torch.randn(num_experts, HIDDEN) / 9
    if name == "phimoe":
        # Several that are nearly the best.
        weight[3:6] = weight[2] * (1 - torch.rand(3, 1) / 50)
    bias = torch.randn(num_experts) if has_bias else None
    expected = route(x, weight, bias, rule)
    ids, weights = operators.route(x, weight, bias, native_rule(rule))
    # Experts that are equally good to the last bits may change places.
    is_alike = ids == expected.expert_ids
    assert is_alike.float().mean() > 0.9 if rows > 1 else True
    if not is_alike.all() and name == "phimoe":
        is_alike &= is_alike.all(-1, keepdim=True)
    close = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(weights[is_alike], expected.weights[is_alike], **close)
    assert all(len(set(row)) == rule.experts_per_token for row in ids.tolist())


def test_impossible_rules_are_refused(operators: Operators) -> None:
    x, weight = torch.zeros(1, 3), torch.zeros(4, 3)
    rule = RoutingRule(scoring="softmax", experts_per_token=3, groups=2, chosen_groups=1)
    with pytest.raises(RuntimeError, match="3 of 4 experts from 1 of 2 groups"):
        operators.route(x, weight, None, native_rule(rule))


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("weighs_inputs", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 90])
def test_mix_experts(
    operators: Operators, rows: int, weighs_inputs: bool, weight_format: str
) -> None:
    """Against the same products, one expert after the other."""
    num_experts, chosen = 6, 3
    has_bias = rows != 5

    def stack(outputs: int, inputs: int) -> MatrixStack:
        packed = []
        for _ in range(num_experts):
            source = torch.randn(outputs, inputs) / inputs**0.5
            source = source.bfloat16() if weight_format == "bfloat16" else source
            packed.append(operators.pack(source, weight_format))
        return MatrixStack([PackedWeight(each) for each in packed], packed=library.stack(packed))

    activation: GatedActivation = "silu" if has_bias else ClampedSwiGLU(limit=1.0, alpha=1.7)
    experts = Experts(
        gate_up=stack(2 * SIZE, HIDDEN),
        down=stack(HIDDEN, SIZE),
        activation=activation,
        gate_up_bias=torch.randn(num_experts, 2 * SIZE) if has_bias else None,
        down_bias=torch.randn(num_experts, HIDDEN) if has_bias else None,
    )
    x, addend = torch.randn(2, rows, HIDDEN)
    # Expert 4 is never chosen.
    scores = torch.rand(rows, num_experts)
    scores[:, 4] = -1
    routing = Routing(scores.topk(chosen).indices, torch.rand(rows, chosen))
    assert experts.gate_up.packed is not None and experts.down.packed is not None
    for added in (addend, None):
        expected = mix_experts(x, routing, experts, added, weighs_inputs=weighs_inputs)
        actual = operators.mix_experts(
            x,
            routing.expert_ids,
            routing.weights,
            (experts.gate_up.packed, experts.down.packed, *_biases(experts)),
            native_activation(activation, is_gated=True),
            weighs_inputs,
            added,
        )
        # Products that round their activations meet other last bits.
        tolerance = 1e-5 if weight_format == "float32" else 2e-2
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def _biases(experts: Experts) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return experts.gate_up_bias, experts.down_bias


def test_an_expert_that_there_is_not_is_refused(operators: Operators) -> None:
    up, down = (
        library.stack([operators.pack(torch.zeros(size), "float32")]) for size in ((4, 3), (3, 2))
    )
    ids, weights = torch.tensor([[1]]), torch.ones(1, 1)
    activation = native_activation("silu", is_gated=True)
    with pytest.raises(RuntimeError, match="slot 1 of 1"):
        operators.mix_experts(
            torch.zeros(1, 3), ids, weights, (up, down, None, None), activation, False, None
        )


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_gate(operators: Operators, rows: int) -> None:
    x, y, gate = torch.randn(rows, HIDDEN), torch.randn(rows, 33), torch.randn(1, HIDDEN)
    expected = weigh_by_gate(x, gate, y.clone())
    operators.gate(x, gate, y)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_softplus(operators: Operators) -> None:
    x = torch.cat((torch.randn(3, 50) * 8, torch.tensor([[-200.0, 0.0, 200.0]]).repeat(3, 1)), -1)
    expected = softplus(x.double()).float()
    actual = operators.activate(x, ("softplus", False, 0.0, 0.0))
    torch.testing.assert_close(actual, expected, atol=1e-7, rtol=2e-6)


def test_temperature(operators: Operators) -> None:
    positions = torch.tensor([0, 5, 8191, 8192, 1000000])
    expected = log_temperature(positions, 0.1, 8192)
    torch.testing.assert_close(operators.temperature(positions, 0.1, 8192), expected)
