"""How many GPUs this process may use, without loading a GPU library."""

import logging
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True)
class VisibleGpus:
    """A count, and what it was taken from."""

    count: int
    source: str


def visible_gpus(environment: Mapping[str, str]) -> VisibleGpus:
    """Count what CUDA_VISIBLE_DEVICES, else NVIDIA_VISIBLE_DEVICES, else nvidia-smi names."""
    if (listed := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return VisibleGpus(_listed_devices(listed), f"CUDA_VISIBLE_DEVICES={listed}")
    listed = environment.get("NVIDIA_VISIBLE_DEVICES", "all")
    if listed not in ("all", "void"):  # void: a container runtime chose the devices in another way
        return VisibleGpus(_listed_devices(listed), f"NVIDIA_VISIBLE_DEVICES={listed}")
    return VisibleGpus(_installed_gpus(), "nvidia-smi")


def _listed_devices(listed: str) -> int:
    """CUDA ignores what follows the first entry that is no device, such as -1 or nothing."""
    count = 0
    for device in listed.split(","):
        if device.strip() in ("", "-1", "none", "NoDevFiles"):
            break
        count += 1
    return count


def _installed_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listing = subprocess.run(
            [program, "-L"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_NVIDIA_SMI_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("cannot count GPUs, nvidia-smi failed: %s", error)
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())
