"""A feed-forward layer in one operator, from the stream to what is added to it."""

from torch import Tensor

from text_generation_shard.ops.activation import activate, gated_activation, native_activation
from text_generation_shard.ops.activation_kind import GatedActivation
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.norm import NormWeights, normed


def add_mlp(
    x: Tensor,
    norm: NormWeights | None,
    addend: Tensor | None,
    up: Projection,
    activation: GatedActivation,
    down: Projection,
    *,
    is_gated: bool,
) -> Tensor:
    """addend + down(activation(up(norm(x)))).

    x, addend: [tokens, hidden], the same tensor or two; the addend may be overwritten; norm: None
    where x is read as it is; is_gated: up's outputs are the gate's and then the up-projection's, as
    `gated_activation` has them. Returns [tokens, hidden].
    """
    native = native_operators(x)
    if (
        native is not None
        and isinstance(up.weight, PackedWeight)
        and isinstance(down.weight, PackedWeight)
    ):
        return native.mlp(
            x,
            norm,
            (up.weight.matrix, up.bias),
            native_activation(activation, is_gated=is_gated),
            (down.weight.matrix, down.bias),
            addend,
        )
    projected = up(x if norm is None else normed(x, norm))
    return down.weight(activated(projected, activation, is_gated=is_gated), down.bias, addend)


def activated(projected: Tensor, activation: GatedActivation, *, is_gated: bool) -> Tensor:
    """projected: [tokens, size], or gated [tokens, 2 * size]. Returns [tokens, size]."""
    if is_gated:
        return gated_activation(projected, activation)
    assert isinstance(activation, str)
    return activate(projected, activation)
