"""Whether the products of one instruction set are those of another, on this very processor."""

import functools
import logging
from collections.abc import Callable

import torch

from text_generation_shard.ops.cpu.operators import Operators

logger = logging.getLogger(__name__)

# More than one tile of registers in every direction but that of few rows, and none full at the end.
_OUTPUTS, _INPUTS, _ROWS, _FEW_ROWS = 83, 351, 37, 11
_FORMATS = ("int8", "int4", "bfloat16")
# Whole numbers up to here are exact in bfloat16, and sums of so many of their products in float32.
_LARGEST = 128
assert _INPUTS * _LARGEST**2 < 2**24


@functools.cache
def tiles_agree(operators: Callable[[str], Operators]) -> bool:
    """Whether products by tile registers (AMX) are what AVX-512's are; a warning says if not. They
    were written without a processor that has them. operators: of an instruction set.
    """
    wrong = disagreement(operators("amx"), operators("avx512_bf16"))
    if wrong is not None:
        logger.warning("AMX is not used: of its products, %s. Please report this processor", wrong)
    return wrong is None


def disagreement(checked: Operators, trusted: Operators) -> str | None:
    """What is wrong with the products of `checked`, or None. Takes one or two milliseconds.

    Both must have the same bits: with int8 and int4 weights because products are integers within a
    group of inputs, and groups are added in one order; with bfloat16 weights, whose products may be
    added in any order, because these are whole numbers.
    """
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(_OUTPUTS, _INPUTS, generator=generator)
    x = torch.randn(_ROWS, _INPUTS, generator=generator)
    for name in _FORMATS:
        if name == "bfloat16":
            weight = (32 * weight).round().clamp(-_LARGEST, _LARGEST).bfloat16()
            x = (32 * x).round().clamp(-_LARGEST, _LARGEST)
        own, other = checked.pack(weight, name), trusted.pack(weight, name)
        for some in (x, x[:_FEW_ROWS]):
            if not torch.equal(own.multiply(some, None), other.multiply(some, None)):
                return f"those of {len(some)} rows with {name} weights are wrong"
    return None
