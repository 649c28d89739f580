"""What every decoder is, from a checkpoint's config.json; families add their own settings.

`from_hf` is the only place with defaults for missing keys, and the place that refuses, by name,
what the models here would compute wrongly.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.quantization_config import read_scale_blocks
from text_generation_shard.models.rope_config import RopeConfig
from text_generation_shard.ops.attention_window import Window
from text_generation_shard.weights.block_scales import ScaleBlocks

# What a query sees, for every layer.
LayerWindows = tuple[Window, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The part that all families share; counts are of the whole model, not of a rank."""

    # Keys of config.json that the family calls otherwise: our name to its name.
    RENAMED: ClassVar[Mapping[str, str]] = {}

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    total_num_heads: int
    total_num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    # Longest sequence that is served unless another is asked for; None: all positions.
    default_total_tokens: int | None = None
    # None: positions are not turned.
    rope: RopeConfig | None
    layer_windows: LayerWindows
    tie_word_embeddings: bool
    # Data type of the stored weights, where the checkpoint names one.
    dtype: str | None
    # What the decoder of an encoder-decoder begins with; None for all other models.
    decoder_start_token_id: int | None = None
    # Of matrices that are stored in 8-bit floats, if some are; `dtype` is then that of the others.
    scale_blocks: ScaleBlocks | None = None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Translate the contents of a config.json as transformers writes it, old or new."""
        fields = Fields(config, cls.RENAMED)
        return cls(**cls.settings(fields), scale_blocks=read_scale_blocks(fields))

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        """The values of the dataclass by name; families override it, and add theirs."""
        hidden_size = fields.integer("hidden_size")
        num_layers = fields.integer("num_hidden_layers")
        num_heads = fields.integer("num_attention_heads")
        num_kv_heads = fields.integer("num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise CheckpointError(
                f"num_attention_heads ({num_heads}) is not a multiple of num_key_value_heads "
                f"({num_kv_heads})"
            )
        if hidden_size % num_heads and not fields.has("head_dim"):
            raise CheckpointError(
                f"hidden_size ({hidden_size}) is not a multiple of num_attention_heads "
                f"({num_heads}), and there is no head_dim"
            )
        return {
            "model_type": fields.text("model_type"),
            "vocab_size": fields.integer("vocab_size"),
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "total_num_heads": num_heads,
            "total_num_kv_heads": num_kv_heads,
            "head_dim": fields.integer("head_dim", hidden_size // num_heads),
            "max_position_embeddings": fields.integer("max_position_embeddings", 2048),
            "rope": None,
            "layer_windows": (None,) * num_layers,
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=False),
            "dtype": fields.optional_text("dtype") or fields.optional_text("torch_dtype"),
        }

    @property
    def sliding_windows(self) -> LayerWindows:
        """The windows that layers have, each once."""
        return tuple(dict.fromkeys(self.layer_windows))

    def with_rope(self, kind: Literal["linear", "dynamic"], factor: float) -> Self:
        """The same model with the scaling that --rope-scaling and --rope-factor ask for.

        It replaces the checkpoint's own and lengthens the sequences that the model accepts.
        """
        if self.rope is None:
            raise CapacityError(f"--rope-scaling: {self.model_type} has no rotary embedding")
        original = self.rope.original_max_positions
        rope = RopeConfig(
            kind=kind,
            theta=self.rope.theta,
            rotary_dim=self.rope.rotary_dim,
            original_max_positions=original,
            factor=factor,
        )
        return dataclasses.replace(self, rope=rope, max_position_embeddings=int(original * factor))


def read_layer_windows(
    fields: Fields,
    num_layers: int,
    *,
    default_window: int | None = None,
    is_sliding: Callable[[int], bool] = lambda _: True,
) -> LayerWindows:
    """The window of each layer: all, those that `layer_types` names, or without it `is_sliding`.

    default_window: where the key is missing altogether; null always means none.
    """
    is_missing = not fields.names("sliding_window")
    if not fields.has("sliding_window") and not (is_missing and default_window):
        return (None,) * num_layers
    window = fields.integer("sliding_window", default_window)
    sliding = [is_sliding(layer) for layer in range(num_layers)]
    if fields.has("layer_types"):
        layer_types = fields.texts("layer_types", num_layers)
        if unknown := set(layer_types) - {"sliding_attention", "full_attention"}:
            raise CheckpointError(f"layer_types: {', '.join(sorted(unknown))} not supported")
        sliding = [layer_type == "sliding_attention" for layer_type in layer_types]
    return tuple(window if slides else None for slides in sliding)
