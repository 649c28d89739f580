"""The peers' own environment, apart from the project's: made once, kept in `.venv-peers`."""

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-peers"
INSTALL_TIMEOUT_S = 3600


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a peer needs. llama-cpp-python is compiled for this processor: several minutes."""

    requirements: tuple[str, ...]
    # A statement that works when it is there.
    proof: str
    # What comes with it and harms: built for another torch than this one.
    unwanted: tuple[str, ...] = ()


PACKAGES = {
    "llama.cpp": Package(requirements=("llama-cpp-python", "gguf"), proof="import llama_cpp"),
    "OpenVINO": Package(
        requirements=("openvino-genai", "optimum-intel[openvino]"),
        proof="from optimum.intel import OVModelForCausalLM",
        unwanted=("torchvision",),
    ),
}


def python(folder: Path) -> Path:
    """The interpreter of the environment, which is made if need be."""
    found = folder / "bin" / "python"
    if not found.exists():
        venv.create(folder, with_pip=True)
    return found


def install(peer: str, folder: Path) -> str | None:
    """Install a peer, if it is not there; returns why it cannot be used, if so."""
    package = PACKAGES[peer]
    interpreter = str(python(folder))
    check = [interpreter, "-c", package.proof]
    if subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return None
    sys.stderr.write(f"installing {peer} into {folder} (minutes)\n")
    # The same torch as the project's: the build without CUDA.
    limits = ["--constraint", str(_torch_constraint(folder))]
    pip = [interpreter, "-m", "pip"]
    try:
        _run([*pip, "install", "--quiet", *limits, *package.requirements])
        if package.unwanted:
            _run([*pip, "uninstall", "--quiet", "--yes", *package.unwanted])
        _run(check)
    except subprocess.CalledProcessError as error:
        complaints: str = error.stderr
        return (complaints.strip().splitlines() or ["pip failed"])[-1]
    except subprocess.TimeoutExpired:
        return f"not installed within {INSTALL_TIMEOUT_S} s"
    return None


def _run(command: list[str]) -> None:
    """Raises CalledProcessError, with what it complained of, and TimeoutExpired."""
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)


def _torch_constraint(folder: Path) -> Path:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    path = folder / "constraints.txt"
    path.write_text("\n".join(line for line in lines if line.startswith("torch==")) + "\n")
    return path
