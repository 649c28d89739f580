"""The paged KV cache of one rank: its layout, and how many blocks a memory holds.

Block 0 is the scrap block: never given to a sequence, never written while serving, always zeros.
Reading past the end of a context reads it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from text_generation_shard.ops.paged_attention import MAX_GROUP_TOKENS, Workspace

SCRAP_BLOCK = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheSpec:
    """What one rank's layers keep for every token."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    # Latent attention: values are the first so many dimensions of the keys. None: they lie apart.
    latent_dim: int | None = None

    @property
    def token_bytes(self) -> int:
        """Bytes per token, keys and values of all layers."""
        return self.num_layers * self.layer_token_bytes

    @property
    def layer_token_bytes(self) -> int:
        """Bytes per token of one layer."""
        num_tensors = 2 if self.latent_dim is None else 1
        return num_tensors * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def workspace_tokens(self, max_total_tokens: int) -> int:
        """Tokens that attention may gather at one time."""
        return max(MAX_GROUP_TOKENS, max_total_tokens + 1)

    def workspace_bytes(self, max_total_tokens: int) -> int:
        """Bytes of the workspace of `allocate`."""
        return self.workspace_tokens(max_total_tokens) * self.layer_token_bytes


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values: [num_blocks, block_size, num_kv_heads, head_dim] each; values
    [..., latent_dim] and a view of the keys where there is a latent_dim.
    """

    keys: Tensor
    values: Tensor
    workspace: Workspace


@dataclass(frozen=True, slots=True)
class KVCache:
    """All layers' keys and values. Owns the memory; the router owns what lies where."""

    layers: tuple[LayerCache, ...]
    num_blocks: int
    block_size: int
    num_bytes: int

    @classmethod
    def allocate(
        cls, spec: KVCacheSpec, *, num_blocks: int, block_size: int, max_total_tokens: int
    ) -> "KVCache":
        """Zeroed memory for `num_blocks` blocks, the scrap block included."""
        workspace = Workspace(*_keys_and_values(spec, spec.workspace_tokens(max_total_tokens)))
        layers = tuple(
            LayerCache(*_keys_and_values(spec, num_blocks, block_size), workspace)
            for _ in range(spec.num_layers)
        )
        num_bytes = num_blocks * block_size * spec.token_bytes
        return cls(layers, num_blocks, block_size, num_bytes)


def _keys_and_values(spec: KVCacheSpec, *shape: int) -> tuple[Tensor, Tensor]:
    """[*shape, num_kv_heads, head_dim] each, or what `LayerCache` says of a latent_dim."""
    keys = _zeros((*shape, spec.num_kv_heads, spec.head_dim), spec)
    if spec.latent_dim is not None:
        return keys, keys[..., : spec.latent_dim]
    return keys, _zeros(keys.shape, spec)


def _zeros(shape: tuple[int, ...], spec: KVCacheSpec) -> Tensor:
    """Zeros; on CPU the kernel hands out the pages on first use, so that a large cache costs
    neither start-up time nor memory before it is needed.
    """
    if spec.device.type != "cpu":
        return torch.zeros(shape, dtype=spec.dtype, device=spec.device)
    num_bytes = torch.Size(shape).numel() * spec.dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(spec.dtype).view(shape)
