"""What a config.json means, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from text_generation_process.options import OptionError
from text_generation_shard.config import ShardConfig
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.llama_config import LlamaConfig, MistralConfig, Qwen2Config
from text_generation_shard.models.loading import model_config
from text_generation_shard.models.rope_config import RopeConfig

# As Llama 1 and 2 checkpoints have it.
OLD: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
}


def config_of(**settings: Any) -> LlamaConfig:
    return LlamaConfig.from_hf({**OLD, **settings})


def test_defaults_of_missing_keys() -> None:
    config = config_of()
    assert config.total_num_kv_heads == 32
    assert config.head_dim == 128
    assert config.max_position_embeddings == 2048
    assert config.rope == RopeConfig(original_max_positions=2048, rotary_dim=128)
    assert not (
        config.qkv_bias or config.output_bias or config.mlp_bias or config.tie_word_embeddings
    )
    assert config.sliding_windows == (None,) and config.dtype is None


def test_null_counts_as_missing() -> None:
    config = config_of(num_key_value_heads=None, head_dim=None, rope_scaling=None, rope_theta=5e5)
    assert (config.total_num_kv_heads, config.head_dim) == (32, 128)
    assert config.rope.theta == 5e5


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_linear_and_dynamic_lengthen_the_positions(key: str) -> None:
    for kind in ("linear", "dynamic"):
        config = config_of(rope_scaling={key: kind, "factor": 4.0}, max_position_embeddings=1000)
        assert config.rope.kind == kind
        assert config.max_position_embeddings == 4000
        assert config.rope.original_max_positions == 1000


def test_new_spelling_says_the_same() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = config_of(rope_scaling=scaling, rope_theta=5e5, max_position_embeddings=131072)
    new = config_of(rope_parameters={**scaling, "rope_theta": 5e5}, max_position_embeddings=131072)
    assert old == new
    assert old.max_position_embeddings == 131072


def test_a_scaling_that_somebody_added_to_the_new_spelling_counts() -> None:
    """The bug: the default in `rope_parameters`, which files of transformers 5 have, hid it."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    as_saved = {"rope_type": "default", "rope_theta": 5e5}
    config = config_of(rope_parameters=as_saved, rope_scaling=yarn, rope_theta=None)
    assert (config.rope.kind, config.rope.factor, config.rope.theta) == ("yarn", 4.0, 5e5)
    assert config_of(rope_parameters=as_saved, rope_scaling=None).rope.kind == "default"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"hidden_size": "big"}, "hidden_size must be a positive integer, got 'big'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"num_key_value_heads": 5}, "num_key_value_heads (5)"),
        ({"hidden_act": "tanh"}, "hidden_act 'tanh'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "rope_type 'spiral'"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "short_factor is missing"),
        ({"hidden_size": 4100}, "hidden_size (4100)"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ],
)
def test_refusals_name_the_key(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_of(**settings)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("layer_types", "text"),
    [
        (["full_attention", "sliding_attention"], "layer_types must be a list of 32"),
        (["chunked_attention"] * 32, "layer_types: chunked_attention"),
    ],
)
def test_kinds_of_layers_that_are_unknown(layer_types: list[str], text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        MistralConfig.from_hf({**OLD, "sliding_window": 8, "layer_types": layer_types})
    assert text in str(caught.value)


def test_sliding_window_that_is_switched_off() -> None:
    assert config_of(sliding_window=4096).sliding_windows == (None,)
    assert MistralConfig.from_hf(OLD).sliding_windows == (4096,)
    assert MistralConfig.from_hf({**OLD, "sliding_window": None}).sliding_windows == (None,)
    qwen = Qwen2Config.from_hf({**OLD, "sliding_window": 64})
    assert qwen.sliding_windows == (None,)
    qwen = Qwen2Config.from_hf({**OLD, "sliding_window": 64, "use_sliding_window": True})
    assert qwen.layer_windows == (None,) * 28 + (64,) * 4


@pytest.mark.parametrize("text", ["", "[1]", '{"model_type": 3}'])
def test_config_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_config(tmp_path)


def test_missing_directory_and_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--model-path"):
        model_config(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        model_config(tmp_path)


def test_rope_factor_below_one_is_refused() -> None:
    with pytest.raises(OptionError, match="--rope-factor"):
        ShardConfig(model_path="m", rope_factor=0.5)
