"""The chosen experts of every token, each an MLP, and their weighted sum."""

import torch
from torch import Tensor

from text_generation_shard.ops.activation import gated_activation, native_activation
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.triton import library as triton_library


def mix_experts(
    x: Tensor, routing: Routing, experts: Experts, addend: Tensor | None, *, weighs_inputs: bool
) -> Tensor:
    """sum over a token's experts of weight * expert(x), or with weighs_inputs of expert(weight *
    x), always added up in the order of the routing; plus the addend.

    x, addend: [tokens, hidden]. Returns the same shape.
    """
    if triton_library.takes(x) and experts.gate_up.dense is not None:
        from text_generation_shard.ops.triton import experts as kernels

        return kernels.mix_experts(x, routing, experts, addend, weighs_inputs=weighs_inputs)
    native = native_operators(x)
    packed = experts.gate_up.packed, experts.down.packed
    if native is not None and packed[0] is not None and packed[1] is not None:
        return native.mix_experts(
            x,
            routing.expert_ids,
            routing.weights,
            (packed[0], packed[1], experts.gate_up_bias, experts.down_bias),
            native_activation(experts.activation, is_gated=True),
            weighs_inputs,
            addend,
        )
    mixed = _by_loop(x, routing, experts, weighs_inputs=weighs_inputs)
    return mixed if addend is None else mixed.add_(addend)


def _by_loop(x: Tensor, routing: Routing, experts: Experts, *, weighs_inputs: bool) -> Tensor:
    """Rows are sorted by expert, so that each chosen expert reads its weights once:

    row      t0 t3 t4 | t0 t2 | t1 ...
    expert   0        | 2     | 5
    """
    expert_ids = routing.expert_ids.flatten()
    order = expert_ids.argsort(stable=True)
    counts = torch.bincount(expert_ids, minlength=len(experts.gate_up.matrices)).tolist()
    rows = x[order // routing.expert_ids.shape[1]]
    if weighs_inputs:
        rows = rows * routing.weights.flatten()[order].unsqueeze(-1)
    outputs = [
        _expert(part, experts, expert)
        for expert, part in enumerate(torch.split(rows, counts))
        if len(part)
    ]
    # Back in the tokens' order, in which a token's experts are always added up alike.
    unsorted = torch.empty_like(rows)
    if outputs:
        unsorted[order] = torch.cat(outputs)
    per_token = unsorted.view(*routing.expert_ids.shape, -1)
    if not weighs_inputs:
        per_token = per_token * routing.weights.unsqueeze(-1)
    return per_token.sum(1)


def _expert(x: Tensor, experts: Experts, expert: int) -> Tensor:
    """x: [rows, hidden]. Returns the same shape."""
    biases = experts.gate_up_bias, experts.down_bias
    gate_up_bias, down_bias = (None if bias is None else bias[expert] for bias in biases)
    gate_up = experts.gate_up.matrices[expert](x, gate_up_bias)
    activated = gated_activation(gate_up, experts.activation)
    return experts.down.matrices[expert](activated, down_bias)
