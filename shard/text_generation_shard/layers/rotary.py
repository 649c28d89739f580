"""Rotary embedding: how far each position turns queries and keys."""

import math

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.models.rope_config import RopeConfig
from text_generation_shard.ops.rotary import Rotation, rotation


class RotaryEmbedding:
    """Rotations from positions.

    A position's rotation depends on the position alone, never on how long its sequence has become
    or will be: cached keys stay right. Where transformers lets the length decide, this means:
    - dynamic (NTK-aware): position p turns as in a sequence that ends there; transformers turns a
      whole prompt by the prompt's length instead, so the two agree up to the original length, and
      beyond it token by token.
    - longrope: the long factors, if sequences longer than the original length are served at all
      (--max-total-tokens); transformers changes from one to the other in the middle of a sequence.
    """

    def __init__(
        self,
        config: RopeConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        interleaved: bool = False,
    ) -> None:
        self._config = config
        self._dtype = dtype
        self._interleaved = interleaved
        dim = config.rotary_dim
        # [rotary_dim / 2]
        self._exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        self._dynamic_power = dim / (dim - 2) if dim > 2 else 1.0
        frequencies = 1.0 / config.theta**self._exponents
        self._frequencies = _scaled(frequencies, config)
        self._long_frequencies = frequencies
        if config.kind == "longrope":
            self._long_frequencies = frequencies / frequencies.new_tensor(config.long_factors)

    def __call__(self, inputs: ModelInputs) -> Rotation:
        """The rotation of every token of a step."""
        factor = self._config.attention_factor
        if self._is_long(inputs) and self._config.long_attention_factor is not None:
            factor = self._config.long_attention_factor
        return rotation(
            inputs.positions,
            self._frequencies_at(inputs),
            factor=factor,
            is_interleaved=self._interleaved,
            dtype=self._dtype,
        )

    def _is_long(self, inputs: ModelInputs) -> bool:
        is_longer = inputs.max_total_tokens > self._config.original_max_positions
        return self._config.kind == "longrope" and is_longer

    def _frequencies_at(self, inputs: ModelInputs) -> Tensor:
        """[rotary_dim / 2], or [tokens, rotary_dim / 2] where the position decides."""
        config = self._config
        if self._is_long(inputs):
            return self._long_frequencies
        if config.kind != "dynamic":
            return self._frequencies
        lengths = (inputs.positions + 1).clamp(min=config.original_max_positions).float()
        stretch = config.factor * lengths / config.original_max_positions - (config.factor - 1)
        theta = config.theta * stretch**self._dynamic_power
        return 1.0 / theta[:, None] ** self._exponents


def _scaled(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Frequencies after the scaling that does not depend on the position; [rotary_dim / 2]."""
    match config.kind:
        case "linear":
            return frequencies / config.factor
        case "llama3":
            return _llama3(frequencies, config)
        case "yarn":
            return _yarn(frequencies, config)
        case "longrope":
            return frequencies / frequencies.new_tensor(config.short_factors)
        case _:
            return frequencies


def _llama3(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Llama 3.1: slow frequencies are divided, fast ones kept, those between are blended."""
    turns = config.original_max_positions * frequencies / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * keep + frequencies / config.factor * (1 - keep)


def _yarn(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Peng et al., 2023: as above, but blended evenly over the dimensions in between."""
    dim = config.rotary_dim

    def dimension(turns: float) -> float:
        """Where a frequency turns so often within the original length."""
        ratio = config.original_max_positions / (turns * 2 * math.pi)
        return dim * math.log(ratio) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    columns = torch.arange(dim // 2, dtype=torch.float32, device=frequencies.device)
    keep = 1 - ((columns - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies * keep + frequencies / config.factor * (1 - keep)
