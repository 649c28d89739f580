"""transformers' continuous batching on the same weights: as shipped, and with flash attention.

The package flash-attn is rarely at hand. Under its name transformers is given torch's own kernels
of that origin, but for the call that reads keys and values through a block table, which torch
lacks: its shorter way for steps that only decode stays closed to it.
"""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_rows import GpuRow
from benchmarks.gpu_served import BATCH, MODEL, OUTPUT_TOKENS, PROMPT_TOKENS

_VERSION = "2.8.3"
_PACKAGE = {
    "flash_attn/__init__.py": '''"""torch's own flash attention, by the interface of flash-attn."""

import torch

__version__ = "{version}"
flash_attn_func = None
flash_attn_with_kvcache = None


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    softmax_scale=None, causal=False, window_size=(-1, -1),
):
    """q, k, v: [tokens, heads, head_dim]; cu_seqlens: [sequences + 1], int32."""
    left, right = window_size
    return torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, causal, False,
        scale=softmax_scale,
        window_size_left=None if left < 0 else left,
        window_size_right=None if right < 0 else right,
    )[0]
''',
    "flash_attn/bert_padding.py": '''"""Imported with the package; nothing is padded here."""

pad_input = unpad_input = None
''',
    "flash_attn-{version}.dist-info/METADATA": "Metadata-Version: 2.1\nName: flash-attn\n"
    "Version: {version}\n",
    "flash_attn-{version}.dist-info/top_level.txt": "flash_attn\n",
}


def measure_as_shipped(folder: Path) -> Iterator[GpuRow]:
    """With what transformers finds on this machine."""
    return _measure("transformers", folder, "paged|sdpa", {})


def measure_with_flash(folder: Path) -> Iterator[GpuRow]:
    """With torch's flash attention under the name of flash-attn, and with CUDA graphs."""
    provide_flash_attention(folder / "flash-attention")
    options = {"use_cuda_graph": True}
    return _measure("transformers-flash", folder, "paged|flash_attention_2", options)


def provide_flash_attention(folder: Path) -> None:
    """Make `flash_attn` importable, before transformers looks for it."""
    assert "transformers" not in sys.modules
    for name, text in _PACKAGE.items():
        path = folder / name.replace("{version}", _VERSION)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{version}", _VERSION))
    sys.path.insert(0, str(folder))


def _measure(part: str, folder: Path, attention: str, options: dict[str, Any]) -> Iterator[GpuRow]:
    """The second of two calls: the first one warms up."""
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    from benchmarks.gpu_steps import checkpoint

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint(MODEL, folder), dtype=torch.bfloat16, attn_implementation=attention
    )
    model.to("cuda")
    make: Any = GenerationConfig
    generation = make(
        max_new_tokens=OUTPUT_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    for call in range(2):
        # Others each time, or its prefix cache would spare it the prefill.
        prompts = random_prompts(seed=call)
        started = time.monotonic()
        done = model.generate_batch(
            inputs=prompts,
            generation_config=generation,
            continuous_batching_config=ContinuousBatchingConfig(**options),
            persistent_manager=True,
        )
        elapsed = time.monotonic() - started
        made = sum(len(each.generated_tokens) for each in done.values())
        if made != BATCH * OUTPUT_TOKENS:
            sys.exit(f"transformers made {made} tokens instead of {BATCH * OUTPUT_TOKENS}")
    name = f"{MODEL}, {BATCH} sequences with their prefill, {attention}"
    yield GpuRow(part=part, name=name, value=made / elapsed, unit="tokens/s")


def random_prompts(seed: int) -> list[list[int]]:
    randomly = random.Random(seed)
    return [[randomly.randrange(3, 1000) for _ in range(PROMPT_TOKENS)] for _ in range(BATCH)]
