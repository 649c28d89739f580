"""In which data types a model is kept and computed, from the options and the checkpoint."""

import logging
from dataclasses import dataclass

import torch

from text_generation_shard.config import ShardConfig
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.ops.cpu import library
from text_generation_shard.weights.storage import DENSE, PACKED, WeightStorage

logger = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_EIGHT_BIT_DTYPES = {
    "int8": torch.int8,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
# The first GPUs whose kernels can read e4m3 numbers.
_ADA = (8, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """arithmetic: of activations and small weights; storage: of matrices; dtype_name: what the
    model is said to be in; cache: of keys and values, unless asked for otherwise; None: as the
    arithmetic.
    """

    arithmetic: torch.dtype
    storage: WeightStorage
    dtype_name: str
    cache: torch.dtype | None = None


def choose_precision(
    config: ShardConfig,
    checkpoint_dtype: str | None,
    device: torch.device,
    *,
    is_generic: bool = False,
) -> Precision:
    """Resolve --dtype and --quantize; raises CapacityError for what cannot be had here.

    checkpoint_dtype: as config.json names it. On CPU the arithmetic is in float32 (float16 only if
    asked for). A checkpoint in bfloat16 stays so in memory, which gives the same numbers as the
    widened weights, except where the processor multiplies bfloat16 (`ops.linear`); its keys and
    values are kept in bfloat16, too, with or without the operators. is_generic: whether
    transformers' code computes; its arithmetic is in the data type of the weights.
    """
    if is_generic:
        return _of_generic_path(config, checkpoint_dtype, device)
    if device.type != "cpu":
        return _on_gpu(config, checkpoint_dtype)
    if config.dtype == "float16":
        if config.quantize is not None:
            raise CapacityError(
                f"--dtype float16 does not go with --quantize {config.quantize} on CPU, where "
                "arithmetic beside 8 or 4 bits is in float32"
            )
        return Precision(arithmetic=torch.float16, storage=DENSE, dtype_name="float16")
    stored = config.dtype or ("bfloat16" if checkpoint_dtype == "bfloat16" else "float32")
    cache = torch.bfloat16 if stored == "bfloat16" else None
    if library.operators() is None:
        if config.quantize is not None:
            raise CapacityError(
                f"--quantize {config.quantize} needs the CPU operators, which are not available "
                "here (the log says why)"
            )
        return Precision(arithmetic=torch.float32, storage=DENSE, dtype_name="float32", cache=cache)
    return Precision(
        arithmetic=torch.float32,
        storage=PACKED[config.quantize or stored],
        dtype_name=stored,
        cache=cache,
    )


def choose_cache_dtype(
    config: ShardConfig, precision: Precision, device: torch.device
) -> torch.dtype | None:
    """Resolve --kv-cache-dtype: None is the data type of activations."""
    if config.kv_cache_dtype is None:
        return precision.cache
    if config.kv_cache_dtype in _DTYPES:
        return _wide_cache(config.kv_cache_dtype, precision, device)
    if config.kv_cache_dtype == "int8":
        if device.type != "cpu":
            raise CapacityError(
                "--kv-cache-dtype int8 is available on CPU only; on a GPU fp8_e4m3fn and fp8_e5m2 "
                "have as many bits"
            )
    elif device.type == "cpu":
        logger.warning(
            "--kv-cache-dtype %s: on CPU torch's functions compute the attention, slower than the "
            "C++ operators, which do not read 8-bit floats",
            config.kv_cache_dtype,
        )
    elif config.kv_cache_dtype == "fp8_e4m3fn" and torch.cuda.get_device_capability(device) < _ADA:
        raise CapacityError(
            "--kv-cache-dtype fp8_e4m3fn needs a GPU of compute capability 8.9 or more; fp8_e5m2 "
            "runs on older ones"
        )
    return _EIGHT_BIT_DTYPES[config.kv_cache_dtype]


def _wide_cache(name: str, precision: Precision, device: torch.device) -> torch.dtype | None:
    dtype, arithmetic = _DTYPES[name], precision.arithmetic
    if dtype == arithmetic:
        return None
    if device.type == "cpu" and (arithmetic, dtype) == (torch.float32, torch.bfloat16):
        return dtype
    raise CapacityError(
        f"--kv-cache-dtype {name} does not go with the arithmetic of --dtype here, which is in "
        f"{str(arithmetic).removeprefix('torch.')}"
    )


def _on_gpu(config: ShardConfig, checkpoint_dtype: str | None) -> Precision:
    if config.quantize is not None:
        raise CapacityError(f"--quantize {config.quantize} is available on CPU only, so far")
    return _dense(config.dtype or checkpoint_dtype or "float32")


def _of_generic_path(
    config: ShardConfig, checkpoint_dtype: str | None, device: torch.device
) -> Precision:
    if config.quantize is not None:
        raise CapacityError(
            f"--quantize {config.quantize} is not available for a model that runs on transformers' "
            "code"
        )
    if device.type == "cpu" and config.dtype is None and checkpoint_dtype == "float16":
        return _dense("float32")
    return _dense(config.dtype or checkpoint_dtype or "float32")


def _dense(name: str) -> Precision:
    if name not in _DTYPES:
        raise CheckpointError(
            f"dtype {name!r} of config.json is not supported: choose one by --dtype"
        )
    return Precision(arithmetic=_DTYPES[name], storage=DENSE, dtype_name=name)
