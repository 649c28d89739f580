"""What --kv-cache-dtype makes of what a model computes in."""

import pytest
import torch
from text_generation_shard.config import KvCacheDtype, ShardConfig
from text_generation_shard.errors import CapacityError
from text_generation_shard.precision import choose_cache_dtype, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def chosen(
    name: KvCacheDtype | None, device: torch.device, checkpoint_dtype: str, *, is_generic: bool
) -> torch.dtype | None:
    config = ShardConfig(model_path="", kv_cache_dtype=name)
    precision = choose_precision(config, checkpoint_dtype, device, is_generic=is_generic)
    return choose_cache_dtype(config, precision, device)


@pytest.mark.parametrize(
    ("name", "device", "checkpoint_dtype", "is_generic", "expected"),
    [
        (None, CPU, "bfloat16", False, torch.bfloat16),
        (None, CPU, "float16", False, None),
        (None, CPU, "bfloat16", True, None),
        (None, GPU, "bfloat16", False, None),
        ("bfloat16", CPU, "float32", False, torch.bfloat16),
        ("bfloat16", CPU, "bfloat16", True, None),
        ("bfloat16", GPU, "bfloat16", False, None),
        ("float32", CPU, "bfloat16", False, None),
        ("int8", CPU, "bfloat16", False, torch.int8),
        ("int8", CPU, "float32", False, torch.int8),
    ],
)
def test_choice(
    name: KvCacheDtype | None,
    device: torch.device,
    checkpoint_dtype: str,
    is_generic: bool,
    expected: torch.dtype | None,
) -> None:
    """None: what the model computes in."""
    assert chosen(name, device, checkpoint_dtype, is_generic=is_generic) == expected


@pytest.mark.parametrize(
    ("name", "device", "checkpoint_dtype", "is_generic"),
    [
        ("float32", GPU, "bfloat16", False),
        ("bfloat16", GPU, "float32", False),
        ("float32", CPU, "bfloat16", True),
        ("float16", CPU, "float32", False),
        ("int8", GPU, "bfloat16", False),
    ],
)
def test_refused(
    name: KvCacheDtype, device: torch.device, checkpoint_dtype: str, is_generic: bool
) -> None:
    with pytest.raises(CapacityError, match=f"--kv-cache-dtype {name}"):
        chosen(name, device, checkpoint_dtype, is_generic=is_generic)
