"""The reference for engines whose products round their activations."""

from text_generation_shard.ops.cpu import library
from torch import Tensor, nn


def products_round() -> bool:
    """Whether products with bfloat16 weights round activations to bfloat16 on this machine."""
    operators = library.operators()
    return operators is not None and operators.rounds_to_bfloat16


def round_activations(model: nn.Module) -> None:
    """Have every product of a float32 model take activations that are rounded to bfloat16."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_round)


def _round(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].bfloat16().to(inputs[0].dtype),)
