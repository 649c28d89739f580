"""Compiled for an H100 without a GPU: the kernels of a bfloat16 model keep to registers.

`python tools/compile_kernels.py` compiles every variant; here are those of a step.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CALLS = [
    "add_rms_norm 4096 bf",
    "silu bf",
    "rotary 128 normed=True bf",
    "decode 1",
    "prefill, 64",
    "experts, 256",
]


def test_no_value_is_spilled_and_tiles_come_ahead() -> None:
    """A spilled value is read back from memory in every pass of a loop, and a tile that is fetched
    when it is needed makes every pass wait for memory.
    """
    output = subprocess.run(
        [sys.executable, ROOT / "tools" / "compile_kernels.py", "--json", "--only", *CALLS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    ).stdout
    kernels = [json.loads(line) for line in output.splitlines()]
    assert {"decode_kernel", "combine_kernel", "prefill_kernel", "rotate_kernel"} <= {
        kernel["kernel"] for kernel in kernels
    }
    assert [kernel for kernel in kernels if kernel["spilled"]] == []
    # What a multiprocessor has to give to one program.
    assert all(kernel["shared"] <= 227 * 1024 for kernel in kernels)
    # Tiles of 64 keys and values are copied while those before them are computed: there are two
    # buffers; three and the queries where the matrix units read them while the next pass begins.
    shared = {(kernel["call"], kernel["kernel"]): kernel["shared"] for kernel in kernels}
    assert shared["decode 1", "decode_kernel"] >= 2 * 2 * 64 * 128 * 2
    assert shared["prefill, 64 dims", "prefill_kernel"] >= 3 * 2 * 64 * 64 * 2 + 128 * 64 * 2


def test_one_variant_serves_steps_of_all_sizes() -> None:
    """What is compiled while serving makes every sequence wait, for seconds."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.shard.ops_triton.variants"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    ).stdout
    found = json.loads(output)
    variants = found["variants"]
    assert variants.keys() >= {
        "_gate_up_kernel",
        "cut_kernel",
        "count_kernel",
    }
    # The first, those in between and the last of a sampler's rounds.
    assert variants.pop("narrow_kernel") == 3
    # With and without penalties, mask and filters, and with and without these.
    assert (variants.pop("adjust_kernel"), variants.pop("draw_kernel")) == (8, 2)
    # All of them before serving.
    assert found["late"] == []
    # Layers with a window, and without; latent ones, of decodes and of chunks.
    kinds = {"_decode_kernel": 2, "_prefill_kernel": 2, "_latent_kernel": 2, "_combine_kernel": 3}
    assert {name: variants.pop(name) for name in kinds} == kinds
    assert {name for name, count in variants.items() if count > 1} == set()
