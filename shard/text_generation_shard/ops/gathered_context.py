"""Keys and values of a context, gathered from blocks for what does not read blocks itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where contexts are gathered: reused by all layers, for fresh memory costs page faults.

    keys: [workspace tokens, num_kv_heads, head_dim], of the queries' dtype; values: the same with
    value_dim, a view of keys where the cache's values are a view of its keys.
    """

    keys: Tensor
    values: Tensor

    @property
    def is_shared(self) -> bool:
        """Whether values are the first dimensions of the keys."""
        return self.values.data_ptr() == self.keys.data_ptr()


def gather_context(
    keys: Tensor,
    values: Tensor,
    places: Tensor,
    workspace: Workspace,
    scales: KVScales = UNSCALED,
) -> Workspace:
    """The keys and values of some places, [places, num_kv_heads, ...]; keys, values: [tokens, ...],
    of the cache. They stay until the next call.
    """
    length = len(places)
    gathered = Workspace(workspace.keys[:length], workspace.values[:length])
    if keys.dtype != workspace.keys.dtype:
        _widen(keys, places, scales.keys, gathered.keys)
        if not gathered.is_shared:
            _widen(values, places, scales.values, gathered.values)
        return gathered
    torch.index_select(keys, 0, places, out=gathered.keys)
    if not gathered.is_shared:
        torch.index_select(values, 0, places, out=gathered.values)
    return gathered


def _widen(cache: Tensor, places: Tensor, scale: float | Tensor, wide: Tensor) -> None:
    """Fill wide, [places, ...], from 8 bits or bfloat16, [tokens, ...]."""
    if isinstance(scale, Tensor):
        block_size = scale.shape[2]
        scales = scale[places // block_size, :, places % block_size]
        wide.copy_(cache.index_select(0, places)).mul_(scales.unsqueeze(-1))
    elif is_float8(cache):
        wide.copy_(cache.view(torch.uint8).index_select(0, places).view(cache.dtype)).mul_(scale)
    else:
        wide.copy_(cache.index_select(0, places))
