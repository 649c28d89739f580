"""What an architecture without a family is, as transformers reads its config.json."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.generic.foreign import refusing
from text_generation_shard.models.config import ModelConfig

# Kinds of RoPE whose frequencies transformers takes from the longest sequence of a batch: what a
# token gets would depend on its company.
_ROPE_OF_THE_BATCH = ("dynamic", "longrope")
_REMOTE_CLASS = "AutoModelForCausalLM"


@dataclass(frozen=True, kw_only=True)
class GenericConfig(ModelConfig):
    """layer_windows are known only after the survey of the loaded model."""

    # transformers' own: a PreTrainedConfig.
    native: Any
    # The model's class, a PreTrainedModel with a head.
    model_class: Any

    def with_rope(self, kind: Literal["linear", "dynamic"], factor: float) -> Self:
        """Refused: what transformers would do with it is not known for every architecture."""
        raise CapacityError(
            f"--rope-scaling {kind} and --rope-factor {factor:g}: not available for "
            f"{self.model_type}, which runs on transformers' code"
        )


def read_generic_config(
    model_path: Path, values: Mapping[str, Any], *, trust_remote_code: bool
) -> GenericConfig:
    """values: the contents of config.json, whose model_type has no family here.

    Code from the directory is run only where transformers does not know the model_type either, and
    only if trust_remote_code. CheckpointError says what is unknown or cannot be served.
    """
    _quieten()
    model_type = str(values.get("model_type"))
    runs_remote_code = model_type not in CONFIG_MAPPING
    if runs_remote_code:
        _require_remote_code(model_type, values, is_trusted=trust_remote_code)
    with refusing("transformers cannot read it"):
        native = transformers.AutoConfig.from_pretrained(
            model_path, trust_remote_code=runs_remote_code, local_files_only=True
        )
        model_class = (
            _remote_class(values["auto_map"][_REMOTE_CLASS], model_path)
            if runs_remote_code
            else _class_of_transformers(model_type, native)
        )
    _refuse_unservable(native)
    return GenericConfig(
        model_type=model_type,
        vocab_size=_integer(native, "vocab_size"),
        hidden_size=_integer(native, "hidden_size"),
        num_layers=(num_layers := _integer(native, "num_hidden_layers")),
        total_num_heads=(num_heads := _integer(native, "num_attention_heads")),
        total_num_kv_heads=getattr(native, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(native, "head_dim", None) or native.hidden_size // num_heads,
        max_position_embeddings=_integer(native, "max_position_embeddings"),
        rope=None,
        layer_windows=(None,) * num_layers,
        tie_word_embeddings=bool(getattr(native, "tie_word_embeddings", False)),
        dtype=values.get("dtype") or values.get("torch_dtype"),
        native=native,
        model_class=model_class,
    )


def _require_remote_code(model_type: str, values: Mapping[str, Any], *, is_trusted: bool) -> None:
    """CheckpointError unless the model's directory has the code, and may be run."""
    auto_map = values.get("auto_map")
    if not isinstance(auto_map, Mapping) or not {"AutoConfig", _REMOTE_CLASS} <= set(auto_map):
        raise CheckpointError(
            f"model_type {model_type!r} is unknown here and to transformers "
            f"{transformers.__version__} (docs/models.md lists the families)"
        )
    if not is_trusted:
        raise CheckpointError(
            f"model_type {model_type!r} is unknown here and to transformers "
            f"{transformers.__version__}; the model brings code of its own: read it, and pass "
            "--trust-remote-code to run it"
        )
    if elsewhere := [value for value in auto_map.values() if "--" in str(value)]:
        raise CheckpointError(
            f"auto_map: {elsewhere[0]} lies in another repository; only code from the model's own "
            "directory is run"
        )


def _remote_class(reference: str, model_path: Path) -> Any:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(reference, str(model_path), local_files_only=True)


def _class_of_transformers(model_type: str, native: Any) -> Any:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"model_type {model_type!r} is no causal language model in transformers "
            f"{transformers.__version__}, and has no family here"
        )
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(native)]


def _refuse_unservable(native: Any) -> None:
    """What the configuration alone shows."""
    if getattr(native, "quantization_config", None) is not None:
        raise CheckpointError("quantization_config: quantized checkpoints are not supported")
    if getattr(native, "is_encoder_decoder", False):
        raise CheckpointError(f"model_type {native.model_type!r} is an encoder-decoder")
    if native.get_text_config() is not native:
        raise CheckpointError(f"model_type {native.model_type!r} is made for more than text")
    kinds = set(_rope_kinds(getattr(native, "rope_parameters", None)))
    if of_the_batch := kinds & set(_ROPE_OF_THE_BATCH):
        raise CheckpointError(
            f"rope_parameters: rope_type {min(of_the_batch)!r} is not supported for "
            f"{native.model_type}: transformers turns all sequences of a batch as the longest needs"
        )


def _rope_kinds(parameters: Any) -> Iterator[str]:
    """Of all layers: the parameters may be nested, by kind of layer."""
    if isinstance(parameters, Mapping):
        yield str(parameters.get("rope_type"))
        for value in parameters.values():
            yield from _rope_kinds(value)


def _integer(native: Any, name: str) -> int:
    value = getattr(native, name, None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{name} must be a positive integer, got {value!r}")
    return value


def _quieten() -> None:
    """Errors of transformers reach our log, and only it; what is worth a warning, we say."""
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.ERROR)
