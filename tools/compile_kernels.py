"""Compile the Triton kernels for an H100 or H200 (sm_90) without a GPU, as the operators launch
them, and report what each takes of a multiprocessor.

    python tools/compile_kernels.py [--only NAME ...] [--json]

The operators are called with tensors on torch's meta device, which have shapes and types but no
memory, and every launch only compiles: so exactly those variants are compiled that such tensors
launch. `spilled` is memory per thread for values that found no register.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "shard")]


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """One kernel as one call launches it; spilled: bytes per thread, shared: bytes per program."""

    call: str
    kernel: str
    warps: int
    registers: int
    spilled: int
    shared: int


class _Target:
    """What Triton asks of a driver in order to compile."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_calls(calls: dict[str, Callable[[], Any]]) -> Iterator[CompiledKernel]:
    """Make every call, and compile what it launches."""
    driver.set_active(_Target())
    launched: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool = False, **options: Any) -> Any:
        del warmup
        launched.append(run(self, *args, warmup=True, **options))

    JITFunction.run = compile_only
    try:
        for name, call in calls.items():
            launched.clear()
            call()
            for kernel in launched:
                yield _measured(name, kernel)
    finally:
        JITFunction.run = run


def _measured(call: str, kernel: Any) -> CompiledKernel:
    usage = _resource_usage(kernel.asm["cubin"])
    return CompiledKernel(
        call=call,
        kernel=kernel.metadata.name.strip("_"),
        warps=kernel.metadata.num_warps,
        registers=usage["REG"],
        spilled=usage["STACK"] + usage["LOCAL"],
        shared=kernel.metadata.shared,
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """What cuobjdump, which comes with Triton, says of a kernel."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(program), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in text.splitlines() if "REG:" in line)
    pairs = (word.split(":") for word in line.split() if "[" not in word)
    return {name: int(value) for name, value in pairs}


def main() -> None:
    from tools.kernel_calls import kernel_calls

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", help="calls whose name contains one of these")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    calls = {
        name: call
        for name, call in kernel_calls().items()
        if options.only is None or any(part in name for part in options.only)
    }
    if not options.json:
        print(f"{'call':44} {'kernel':24} {'warps':>5} {'regs':>5} {'spilled':>7} {'shared':>7}")
    for kernel in compile_calls(calls):
        if options.json:
            print(json.dumps(asdict(kernel)), flush=True)
            continue
        print(
            f"{kernel.call:44} {kernel.kernel:24} {kernel.warps:5} {kernel.registers:5} "
            f"{kernel.spilled:7} {kernel.shared:7}",
            flush=True,
        )


if __name__ == "__main__":
    main()
