"""Ask a loaded model what attention it wants, layer by layer, by letting it compute one token.

For the time of the survey the model's attention and masks are functions that only note what they
are asked for. Whatever would change the result and cannot be honoured is refused here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from text_generation_shard.errors import CheckpointError
from text_generation_shard.generic.foreign import refusing

_SURVEY = "text_generation_survey"

# What models pass along that cannot change the result without a mask and a cache of transformers.
_WITHOUT_EFFECT = frozenset(
    {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
     "output_router_logits"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Visible:
    """Stands where a mask would: the tokens a query sees, itself included; None: all before it."""

    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttention:
    """What one layer asks for. Counts are of this rank."""

    module: torch.nn.Module
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    scale: float
    soft_cap: float | None
    sliding_window: int | None


def survey(model: Any, *, num_layers: int, max_positions: int) -> list[LayerAttention]:
    """The attention of every layer in the order in which they compute; CheckpointError if there is
    a layer that we cannot give what it wants, or one without attention.

    model: a PreTrainedModel without its head. All ranks call this at the same time.
    """
    notes = _Notes(max_positions)
    AttentionInterface.register(_SURVEY, notes.attend)
    AttentionMaskInterface.register(_SURVEY, notes.mask)
    model.config._attn_implementation = _SURVEY  # noqa: SLF001  transformers' own way
    zero = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    with torch.inference_mode(), refusing("its attention cannot be found out"):
        model(input_ids=zero, position_ids=zero, use_cache=False)
    num_modules = len({layer.module for layer in notes.layers})
    if num_modules < len(notes.layers):
        raise CheckpointError("a layer attends more than once, or layers share their attention")
    if num_modules != num_layers:
        raise CheckpointError(
            f"{num_modules} of {num_layers} layers use transformers' interface for attention; the "
            "others keep a state of another kind, or have attention of their own"
        )
    return notes.layers


class _Notes:
    """The functions, and what they were asked for."""

    def __init__(self, max_positions: int) -> None:
        self._max_positions = max_positions
        self.layers: list[LayerAttention] = []

    def mask(self, *_: object, mask_function: Callable[..., Tensor], **__: object) -> Visible:
        """In place of a mask."""
        return Visible(window_of(mask_function, self._max_positions))

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: object,
        **asked: Any,
    ) -> tuple[Tensor, None]:
        """query: [1, num_heads, 1, head_dim], key and value alike. Returns zeros of the shape."""
        window = _window(attention_mask, asked.pop("sliding_window", None), self._max_positions)
        scale = asked.pop("scaling", None)
        soft_cap = asked.pop("softcap", None)
        asked.pop("s_aux", None)
        _refuse_other_wishes(module, asked)
        num_heads, num_kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
        if key.shape[3] != head_dim or value.shape[3] > head_dim or num_heads % num_kv_heads:
            shapes = ", ".join(str(list(heads.shape)) for heads in (query, key, value))
            raise CheckpointError(f"attention over heads of shapes {shapes} is not supported")
        layer = LayerAttention(
            module=module,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dtype=key.dtype,
            scale=head_dim**-0.5 if scale is None else float(scale),
            soft_cap=None if soft_cap is None else float(soft_cap),
            sliding_window=window,
        )
        self.layers.append(layer)
        return value.new_zeros(1, 1, num_heads, value.shape[3]), None


def window_of(mask_function: Callable[..., Tensor], num_positions: int) -> int | None:
    """The sliding window of a mask that transformers describes by a function; None if causal.

    mask_function(batch, head, query position, key position) tells whether the query sees the key.
    CheckpointError if what it tells is neither.
    """
    zero, last = torch.tensor(0), num_positions - 1
    keys = torch.arange(num_positions)

    def seen(query: int) -> Tensor:
        visible = mask_function(zero, zero, torch.tensor(query), keys)
        return torch.broadcast_to(visible, keys.shape).nonzero().flatten()

    window = len(seen(last))
    for query in {last, last // 2, last // 3, 0}:
        if not torch.equal(seen(query), keys[max(0, query - window + 1) : query + 1]):
            raise CheckpointError("its mask is neither causal nor a sliding window")
    return None if window == num_positions else window


def _window(mask: object, given: Any, max_positions: int) -> int | None:
    """What the mask says, which must not contradict what is given beside it."""
    if not isinstance(mask, Visible):
        kind = "without a causal mask" if mask is None else "with a mask or bias of its own"
        raise CheckpointError(f"it attends {kind}")
    if given is not None and min(int(given), max_positions) != (mask.window or max_positions):
        raise CheckpointError(f"sliding_window {given} contradicts its mask ({mask.window})")
    return mask.window


def _refuse_other_wishes(module: torch.nn.Module, asked: dict[str, Any]) -> None:
    """CheckpointError for what would change the result and is not in our attention."""
    is_causal = asked.pop("is_causal", None)
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise CheckpointError("its attention is not causal")
    for name, value in asked.items():
        if name in _WITHOUT_EFFECT or value is None or value is False:
            continue
        if name == "dropout" and value == 0:
            continue
        raise CheckpointError(f"its attention asks for {name}, which is not supported")
