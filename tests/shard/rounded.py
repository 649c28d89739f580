"""The reference for engines that round activations, or keys and values, to bfloat16."""

from typing import Any

import pytest
from text_generation_shard.ops.cpu import library
from torch import Tensor, nn
from transformers import DynamicCache


def products_round() -> bool:
    """Whether products with bfloat16 weights round activations to bfloat16 on this machine."""
    operators = library.operators()
    return operators is not None and operators.rounds_to_bfloat16


def round_activations(model: nn.Module) -> None:
    """Have every product of a float32 model take activations that are rounded to bfloat16."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_round)


def round_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every model of transformers read keys and values that are rounded to bfloat16."""
    update = DynamicCache.update

    def update_rounded(
        self: DynamicCache, keys: Tensor, values: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        return update(self, _rounded(keys), _rounded(values), *args, **options)

    monkeypatch.setattr(DynamicCache, "update", update_rounded)


def _round(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (_rounded(inputs[0]),)


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)
