"""Build the library of C++ operators: `python -m text_generation_shard.ops.cpu.build`.

It lies in the user's cache directory, under a name made of everything that decides its content:
sources, compiler flags, and the versions of torch and Python. Every kernel is compiled once per
instruction set; which one runs is decided when the library is loaded.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from text_generation_shard.cache_directory import cache_directory

MODULE_NAME = "text_generation_cpu_operators"
SOURCES = Path(__file__).parent / "csrc"
# One compiler call: the longest takes a few seconds on a quiet machine.
_TIMEOUT_S = 300

_COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-g0")
_INSTRUCTION_SETS = {
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4", "-mavx512vnni"),
}
# Sources without kernels: compiled once, for every processor that has one of the sets.
_COMMON_SOURCES = (
    "pool.cpp",
    "processor.cpp",
    *sorted(path.name for path in SOURCES.glob("binding*.cpp")),
)
# Sets on top of AVX-512, each of the one before: what they compute in their own way, and what calls
# that. A compiler that knows x86-64-v4 knows them too.
_BFLOAT16_SET = ("avx512_bf16", (*_INSTRUCTION_SETS["avx512"], "-mavx512bf16"))
_BFLOAT16_SOURCES = ("linear_bfloat16.cpp", "attention_pairs.cpp", "attention_row_pairs.cpp")
_BFLOAT16_CALLERS = ("attention.cpp", "attention_chunk.cpp", "attention_row.cpp")
_TILE_SET = ("amx", (*_BFLOAT16_SET[1], "-mamx-tile", "-mamx-int8", "-mamx-bf16"))
_TILE_SOURCES = ("linear_amx.cpp", "linear_amx_integer.cpp")


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def library_path() -> Path:
    """Where the library of this version lies, or will lie."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return cache_directory() / _fingerprint() / f"{MODULE_NAME}{suffix}"


def build() -> Path:
    """The path of the library, built if it is not there; raises BuildError.

    Several processes may build at the same time: each renames a whole library into place.
    """
    path = library_path()
    if path.exists():
        return path
    if platform.machine() != "x86_64":
        raise BuildError(f"they need an x86-64 processor, this one is {platform.machine()}")
    compiler = find_compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            objects = _compile_all(compiler, Path(scratch))
            library = Path(scratch) / path.name
            _run([compiler, "-shared", "-pthread", *objects, "-o", str(library), *_link_flags()])
            with library.open("rb") as written:
                os.fsync(written)  # or after a power loss the name may stand before the bytes
            library.replace(path)
    except OSError as error:
        raise BuildError(f"{path.parent} cannot be written: {error}") from error
    return path


@functools.cache
def _fingerprint() -> str:
    digest = hashlib.sha256()
    for part in (torch.__version__, sys.version, platform.machine(), _COMMON_FLAGS):
        digest.update(repr(part).encode())
    digest.update(repr((_INSTRUCTION_SETS, _BFLOAT16_SET, _TILE_SET)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> str:
    """The C++ compiler that CXX names, or g++ or clang++."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        found = shutil.which(name)
        if found is not None:
            return found
    raise BuildError("no C++ compiler was found (g++ or clang++, or what CXX names)")


def _compile_all(compiler: str, scratch: Path) -> list[str]:
    """Object files of all sources and instruction sets, as many at a time as there are cores."""
    common = ("-march=x86-64-v2", *_torch_flags())
    jobs = [(SOURCES / name, "avx2", common) for name in _COMMON_SOURCES]
    jobs += [(SOURCES / name, *_BFLOAT16_SET) for name in (*_BFLOAT16_SOURCES, *_BFLOAT16_CALLERS)]
    jobs += [(SOURCES / name, *_TILE_SET) for name in _TILE_SOURCES]
    compiled_once = {*_COMMON_SOURCES, *_BFLOAT16_SOURCES, *_TILE_SOURCES}
    kernels = sorted(path for path in SOURCES.glob("*.cpp") if path.name not in compiled_once)
    for name, flags in _INSTRUCTION_SETS.items():
        jobs += [(source, name, flags) for source in kernels]
    commands, objects = [], []
    for source, instruction_set, flags in jobs:
        target = str(scratch / f"{source.stem}-{instruction_set}.o")
        define = f"-DCPU_OPERATORS_ISA={instruction_set}"
        commands.append([compiler, *_COMMON_FLAGS, *flags, define, "-c", str(source), "-o", target])
        objects.append(target)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(_run, commands):
            pass
    return objects


def _torch_flags() -> list[str]:
    """What a source needs that includes headers of torch and Python."""
    from torch.utils.cpp_extension import include_paths

    includes = [*include_paths("cpu"), sysconfig.get_path("include")]
    abi = int(torch.compiled_with_cxx11_abi())
    return [*(f"-isystem{path}" for path in includes), f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]


def _link_flags() -> list[str]:
    from torch.utils.cpp_extension import library_paths

    found = [f"-L{path}" for path in library_paths("cpu")]
    return [*found, "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        complaint = next(
            (line for line in error.stderr.splitlines() if "error" in line), error.stderr[-300:]
        )
        raise BuildError(f"{Path(command[0]).name} failed: {complaint}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{Path(command[0]).name} took more than {_TIMEOUT_S} s") from error


def main() -> None:
    """Build ahead, and say what came of it; without a compiler the server works all the same."""
    started = time.monotonic()
    try:
        path = build()
    except BuildError as error:
        message = f"CPU operators were not built: {error}. The server is slower without them."
    else:
        message = f"CPU operators: {path} ({time.monotonic() - started:.0f} s)"
    sys.stdout.write(message + "\n")


if __name__ == "__main__":
    main()
