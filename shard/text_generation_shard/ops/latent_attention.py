"""Multi-head latent attention (DeepSeek-AI, 2024), from projected queries and keys to values."""

from typing import NamedTuple

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.cpu.operators import ExpansionFields
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import is_float8, write_keys
from text_generation_shard.ops.linear import MatrixStack
from text_generation_shard.ops.norm import NormWeights, normed
from text_generation_shard.ops.paged_attention import AttentionPlan, paged_attention
from text_generation_shard.ops.rotary import Rotation, turn


class LatentExpansion(NamedTuple):
    """What each head makes of a latent vector, and the first of it turned over.

    to_latent: [latent_dim, plain_dim] of each head; to_key: [plain_dim, latent_dim], None where no
    operator takes it; from_latent: [value_dim, latent_dim].
    """

    to_latent: MatrixStack
    to_key: MatrixStack | None
    from_latent: MatrixStack

    @property
    def packed(self) -> ExpansionFields | None:
        """As the C++ operators take it, if they do."""
        to_key = None if self.to_key is None else self.to_key.packed
        if self.to_latent.packed is None or to_key is None or self.from_latent.packed is None:
            return None
        return self.to_latent.packed, to_key, self.from_latent.packed


def latent_attention(
    query: Tensor,
    key: Tensor,
    norm: NormWeights,
    rotation: Rotation,
    expansion: LatentExpansion,
    cache: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    plan: AttentionPlan,
    workspace: Workspace,
    *,
    scale: float,
) -> Tensor:
    """Cache what the tokens leave, and attend; may change the query.

    query: [tokens, num_heads, plain_dim + turned_dim]; key: [tokens, latent_dim + turned_dim], the
    latent vector and the key that all heads share; norm: of the latent vector; rotation: of the
    turned dimensions; cache: keys [num_blocks, block_size, 1, latent_dim + turned_dim], and values,
    their first latent_dim; the rest as `paged_attention` has it. Returns [tokens, num_heads,
    value_dim].
    """
    native = None if is_float8(cache[0]) else native_operators(query)
    packed = expansion.packed
    if native is not None and packed is not None:
        return native.latent_attention(
            query, key, norm, rotation, packed, cache, slot_mapping, plan.native, scale
        )
    latent_dim, turned_dim = norm.weight.shape[0], rotation.cos.shape[-1]
    turned_key = turn(key[:, None, latent_dim:], rotation)
    latent = normed(key[:, None, :latent_dim], norm)
    write_keys(torch.cat((latent, turned_key), dim=-1), cache[0], slot_mapping)
    plain, turning = query[..., :-turned_dim], query[..., -turned_dim:]
    attended = paged_attention(
        torch.cat((_multiply(plain, expansion.to_latent), turn(turning, rotation)), dim=-1),
        *cache,
        plan,
        workspace,
        scale=scale,
    )
    return _multiply(attended, expansion.from_latent)


def _multiply(x: Tensor, stack: MatrixStack) -> Tensor:
    """x: [tokens, heads, inputs]. Returns [tokens, heads, outputs]."""
    if stack.dense is not None:
        return torch.bmm(x.transpose(0, 1), stack.dense.transpose(1, 2)).transpose(0, 1)
    products = [matrix(part) for matrix, part in zip(stack.matrices, x.unbind(1), strict=True)]
    return torch.stack(products, dim=1)
