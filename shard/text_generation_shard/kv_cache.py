"""The paged KV cache of one rank: its layout, and how many blocks a memory holds.

Block 0 is the scrap block: never given to a sequence. Reading past the end of a context reads it,
and what is read is weighted by zero. It holds zeros, but for the first token: that of rows which
only fill up a step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import KVScales
from text_generation_shard.ops.paged_attention import has_kernel
from text_generation_shard.ops.reference_plan import MAX_GROUP_TOKENS
from text_generation_shard.ops.rounded_rows import SCALE_DTYPE
from text_generation_shard.recurrent_state import RecurrentSpec, RecurrentStates

SCRAP_BLOCK = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheSpec:
    """What one rank's layers keep for every token and, where they are recurrent, every sequence."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    # Latent attention: values are the first so many dimensions of the keys. None: they lie apart.
    latent_dim: int | None = None
    recurrent: RecurrentSpec | None = None
    # Of cached keys and values: as dtype, bfloat16 beside float32, or 8 bits. None: as dtype.
    cache_dtype: torch.dtype | None = None
    # Whether what attends to prompts wants their contexts gathered, also on a GPU.
    gathers_prompts: bool = False

    def slots_bytes(self, num_slots: int) -> int:
        """Bytes of the recurrent states of so many sequences."""
        return 0 if self.recurrent is None else num_slots * self.recurrent.slot_bytes

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of cached keys and values."""
        return self.dtype if self.cache_dtype is None else self.cache_dtype

    @property
    def token_bytes(self) -> int:
        """Bytes per token, keys and values of all layers."""
        element_bytes = self._layer_token_elements * self.stored_dtype.itemsize
        return self.num_layers * (element_bytes + self._layer_token_scales * SCALE_DTYPE.itemsize)

    @property
    def _layer_token_scales(self) -> int:
        """Scales that a layer keeps of a token's keys and values."""
        return 2 * self.num_kv_heads if self.stored_dtype is torch.int8 else 0

    @property
    def _layer_token_elements(self) -> int:
        """Numbers that a layer keeps of a token."""
        num_tensors = 2 if self.latent_dim is None else 1
        return num_tensors * self.num_kv_heads * self.head_dim

    def workspace_tokens(self, max_total_tokens: int) -> int:
        """Tokens that attention may gather at one time: none where kernels read all blocks."""
        is_latent = self.latent_dim is not None
        nothing = torch.empty(0, device=self.device)
        is_read_in_place = has_kernel(nothing, self.head_dim, is_latent=is_latent)
        if is_read_in_place and not self.gathers_prompts:
            return 0
        return max(MAX_GROUP_TOKENS, max_total_tokens + 1)

    def workspace_bytes(self, max_total_tokens: int) -> int:
        """Bytes of the workspace of `allocate`."""
        tokens = self.workspace_tokens(max_total_tokens)
        return tokens * self._layer_token_elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values: [num_blocks, block_size, num_kv_heads, head_dim] each; values
    [..., latent_dim] and a view of the keys where there is a latent_dim.
    """

    keys: Tensor
    values: Tensor
    workspace: Workspace
    # Of int8; None: the layer has its own, if any.
    scales: KVScales | None = None


@dataclass(frozen=True, slots=True)
class KVCache:
    """All layers' keys and values. Owns the memory; the router owns what lies where.

    states: of the recurrent layers, by slot; None where there are none.
    """

    layers: tuple[LayerCache, ...]
    num_blocks: int
    block_size: int
    num_bytes: int
    states: RecurrentStates | None = None

    @classmethod
    def allocate(
        cls,
        spec: KVCacheSpec,
        *,
        num_blocks: int,
        block_size: int,
        max_total_tokens: int,
        num_slots: int,
    ) -> "KVCache":
        """Zeroed memory: blocks and states of slots; the scrap block and slot count as well."""
        room = (spec.workspace_tokens(max_total_tokens),)
        workspace = Workspace(*_keys_and_values(spec, room, spec.dtype))
        paged = (num_blocks, block_size)
        layers = tuple(
            LayerCache(
                *_keys_and_values(spec, paged, spec.stored_dtype),
                workspace,
                _scales(spec, num_blocks, block_size),
            )
            for _ in range(spec.num_layers)
        )
        num_bytes = num_blocks * block_size * spec.token_bytes + spec.slots_bytes(num_slots)
        return cls(layers, num_blocks, block_size, num_bytes, _states(spec, num_slots))


def _keys_and_values(
    spec: KVCacheSpec, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """[*shape, num_kv_heads, head_dim] each, or what `LayerCache` says of a latent_dim."""
    keys = _zeros((*shape, spec.num_kv_heads, spec.head_dim), spec, dtype)
    if spec.latent_dim is not None:
        return keys, keys[..., : spec.latent_dim]
    return keys, _zeros(keys.shape, spec, dtype)


def _scales(spec: KVCacheSpec, num_blocks: int, block_size: int) -> KVScales | None:
    """[num_blocks, num_kv_heads, block_size] each, zeros; None where numbers have none."""
    if spec.stored_dtype is not torch.int8:
        return None
    shape = (num_blocks, spec.num_kv_heads, block_size)
    keys, values = (_zeros(shape, spec, SCALE_DTYPE) for _ in range(2))
    return KVScales(keys, values)


def _states(spec: KVCacheSpec, num_slots: int) -> RecurrentStates | None:
    recurrent = spec.recurrent
    if recurrent is None:
        return None
    conv, ssm = (
        (recurrent.num_layers, num_slots, depth, recurrent.num_channels)
        for depth in (recurrent.num_past_inputs, recurrent.state_size)
    )
    return RecurrentStates(_zeros(conv, spec, recurrent.dtype), _zeros(ssm, spec, torch.float32))


def _zeros(shape: tuple[int, ...], spec: KVCacheSpec, dtype: torch.dtype) -> Tensor:
    """Zeros; on CPU the kernel hands out the pages on first use, so that a large cache costs
    neither start-up time nor memory before it is needed.
    """
    if spec.device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=spec.device)
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
