"""What a bug report needs to say about the machine and the installation."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path

from text_generation_launcher.config import LauncherConfig

_PACKAGES = (
    "text-generation-inference",
    "torch",
    "numpy",
    "safetensors",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "grpcio",
    "protobuf",
    "aiohttp",
    "uvloop",
    "msgspec",
)
_FAMILIES = (
    "CUDA_",
    "GLOO_",
    "HF_",
    "HUGGING",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "PYTHON",
    "PYTORCH_",
    "TORCH_",
    "TRANSFORMERS_",
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_CREDENTIALS_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_PROGRAM_SECONDS = 20


def describe(environment: Mapping[str, str]) -> str:
    """Several lines of `name: value`; secrets are masked."""
    lines = [f"{name}: {value}" for name, value in _facts(environment)]
    return "\n".join(lines)


def _facts(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({sys.executable})"
    for package in _PACKAGES:
        yield package, _version(package)
    yield "commit", _commit()
    yield "platform", platform.platform()
    yield "cpu", _field(Path("/proc/cpuinfo"), "model name") or platform.machine()
    yield "cores", f"{os.cpu_count()}, usable {_usable_cores()}"
    yield "cgroup cpu.max", _text(Path("/sys/fs/cgroup/cpu.max"))
    yield "memory", _field(Path("/proc/meminfo"), "MemTotal") or "unknown"
    yield "memory available", _field(Path("/proc/meminfo"), "MemAvailable") or "unknown"
    yield "cgroup memory.max", _text(Path("/sys/fs/cgroup/memory.max"))
    for name in sorted(environment):
        if _matters(name):
            yield name, _masked(name, environment[name])
    yield "nvidia-smi", _output("nvidia-smi")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source tree, if the package runs from one."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return "not a source tree"
    return _output("git", "-C", str(source), "rev-parse", "HEAD")


def _usable_cores() -> int:
    """The cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _field(path: Path, name: str) -> str | None:
    """The value of the first line `name : value`."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def _matters(name: str) -> bool:
    own = {item.name.upper() for item in fields(LauncherConfig)}
    return name in own or name.startswith(_FAMILIES) or name.lower().endswith("_proxy")


def _masked(name: str, value: str) -> str:
    return "***" if _SECRET.search(name) else _CREDENTIALS_IN_URL.sub(r"\1***@", value)


def _output(program: str, *arguments: str) -> str:
    found = shutil.which(program)
    if found is None:
        return "not found"
    try:
        done = subprocess.run(
            [found, *arguments],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    if done.returncode != 0:
        return f"failed with code {done.returncode}: {done.stderr.strip()}"
    # nvidia-smi's table begins on a line of its own
    text = done.stdout.strip()
    return f"\n{text}" if "\n" in text else text
