"""How the matrices of a model are kept in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from text_generation_shard.ops.linear import PackedFormat


@dataclass(frozen=True, slots=True)
class WeightStorage:
    """None: dense, in the dtype of the activations; a format: packed for the CPU operators.

    body: the matrices of the layers; table: the token embedding and the output head, and matrices
    so small that fewer bits would not make their products faster.
    """

    name: str
    body: PackedFormat | None = None
    table: PackedFormat | None = None


DENSE = WeightStorage("dense")

# By name. The head decides between tokens that are close to each other: it keeps 8 bits.
PACKED: Mapping[str, WeightStorage] = MappingProxyType(
    {
        "float32": WeightStorage("float32", "float32", "float32"),
        "bfloat16": WeightStorage("bfloat16", "bfloat16", "bfloat16"),
        "int8": WeightStorage("int8", "int8", "int8"),
        "int4": WeightStorage("int4", "int4", "int8"),
    }
)
