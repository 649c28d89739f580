"""How the halves of a layer are joined to the stream, by one rank and by several."""

from typing import Any

import pytest
import torch
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.norm import Norm
from text_generation_shard.ops.norm import NormWeights
from torch import Tensor


class Doubling:
    """An attention and an MLP whose update is twice what they read; notes what it is to add to."""

    def __init__(self, *, is_whole: bool) -> None:
        self.is_whole = is_whole
        self.addends: list[Tensor | None] = []

    def __call__(self, x: Tensor, *_: object, addend: Tensor | None, norm: Norm | None) -> Tensor:
        self.addends.append(addend)
        update = 2 * (x if norm is None else norm(x))
        return update if addend is None else addend + update


class Attention(Doubling):
    def __call__(
        self, x: Tensor, *_: object, norm: Norm | None, addend: Tensor | None = None
    ) -> Tensor:
        return super().__call__(x, addend=addend, norm=norm)


class MLP(Doubling):
    def __call__(
        self, x: Tensor, *_: object, addend: Tensor | None, norm: Norm | None = None
    ) -> Tensor:
        return super().__call__(x, addend=addend, norm=norm)


@pytest.mark.parametrize("is_centred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_ranks_summed_up_is_added_by_the_norm(dtype: torch.dtype, is_centred: bool) -> None:
    """To the same stream, to the last bit."""
    stream = torch.randn(3, 48, dtype=dtype)
    streams = []
    for is_whole in (True, False):
        weights: list[Any] = [torch.randn(48, generator=torch.Generator().manual_seed(1))] * 2
        norms = [Norm(NormWeights(weight.to(dtype), 1e-5, None, is_centred)) for weight in weights]
        attention, mlp = Attention(is_whole=is_whole), MLP(is_whole=is_whole)
        block = SequentialBlock(
            attention_norm=norms[0],
            attention=attention,  # type: ignore[arg-type]
            mlp_norm=norms[1],
            mlp=mlp,
        )
        streams.append(block(stream.clone(), None, None, None))  # type: ignore[arg-type]
        assert (attention.addends[0] is None) == (not is_whole)
        assert mlp.addends[0] is not None
    assert torch.equal(*streams)
