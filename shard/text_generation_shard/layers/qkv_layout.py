"""How checkpoints store the projections to queries, keys and values: tables, declared by families.

A layout says where the outputs lie that a rank computes; they are read into one weight whose
outputs are the rank's queries, then its keys, then its values.
"""

from dataclasses import dataclass

from text_generation_shard.layers.linear import OutputPart, qkv_parts
from text_generation_shard.layers.partition import AttentionShape


@dataclass(frozen=True, slots=True)
class SeparateQKV:
    """Three layers."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"

    def parts(self, shape: AttentionShape) -> list[OutputPart]:
        """The outputs of one rank."""
        return qkv_parts(
            (self.query, self.key, self.value),
            shape.heads,
            total_heads=(shape.total_num_heads, shape.total_num_kv_heads),
            head_dim=shape.head_dim,
        )


@dataclass(frozen=True, slots=True)
class StackedQKV:
    """One layer: all queries, then all keys, then all values."""

    name: str

    def parts(self, shape: AttentionShape) -> list[OutputPart]:
        """The outputs of one rank."""
        first_key = shape.total_num_heads
        first_value = first_key + shape.total_num_kv_heads
        return _heads(
            self.name,
            shape,
            [
                *shape.query_heads,
                *(first_key + head for head in shape.heads.kv_heads),
                *(first_value + head for head in shape.heads.kv_heads),
            ],
        )


@dataclass(frozen=True, slots=True)
class GroupedQKV:
    """One layer: for each KV head its queries, its key, its value (GPT-NeoX, BLOOM, Falcon)."""

    name: str

    def parts(self, shape: AttentionShape) -> list[OutputPart]:
        """The outputs of one rank.

        with two queries to a KV head    q0 q1 k0 v0 | q2 q3 k1 v1 | ...
        """
        group = shape.total_num_heads // shape.total_num_kv_heads
        width = group + 2
        return _heads(
            self.name,
            shape,
            [
                *(head // group * width + head % group for head in shape.query_heads),
                *(head * width + group for head in shape.heads.kv_heads),
                *(head * width + group + 1 for head in shape.heads.kv_heads),
            ],
        )


QKVLayout = SeparateQKV | StackedQKV | GroupedQKV


def _heads(name: str, shape: AttentionShape, places: list[int]) -> list[OutputPart]:
    """One part for each run of heads that lie one after the other."""
    total = (shape.total_num_heads + 2 * shape.total_num_kv_heads) * shape.head_dim
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1][1] = place + 1
        else:
            runs.append([place, place + 1])
    return [
        OutputPart(name, total, first * shape.head_dim, last * shape.head_dim)
        for first, last in runs
    ]
