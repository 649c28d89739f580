"""A gated feed-forward layer on the normed stream, added to it, in one operator."""

from torch import Tensor

from text_generation_shard.ops.activation import gated_activation
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.rms_norm import rms_norm


def add_silu_mlp(
    stream: Tensor, norm_weight: Tensor, eps: float, gate_up: Projection, down: Projection
) -> Tensor:
    """stream + down(silu(gate(x)) * up(x)), with x = rms_norm(stream).

    stream: [tokens, hidden], may be overwritten; norm_weight, eps: as `rms_norm` has them; gate_up:
    its outputs are the gate's and then the up-projection's. Returns [tokens, hidden].
    """
    native = native_operators(stream)
    if (
        native is not None
        and isinstance(gate_up.weight, PackedWeight)
        and isinstance(down.weight, PackedWeight)
    ):
        return native.add_gated_mlp(
            stream,
            norm_weight,
            eps,
            gate_up.weight.matrix,
            gate_up.bias,
            down.weight.matrix,
            down.bias,
        )
    gates = gate_up(rms_norm(stream, norm_weight, eps))
    return down.weight(gated_activation(gates, "silu"), down.bias, stream)
