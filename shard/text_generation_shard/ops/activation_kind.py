"""Which activations there are, and the names that config.json gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
# By all their names.
ACTIVATIONS: Mapping[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True, slots=True)
class ClampedSwiGLU:
    """(up + 1) * gate * sigmoid(alpha * gate), of gates up to `limit` and up-projections of no
    larger magnitude (gpt-oss).
    """

    limit: float
    alpha: float


# What is made of a gate and an up-projection; of an activation: activation(gate) * up.
GatedActivation = Activation | ClampedSwiGLU
