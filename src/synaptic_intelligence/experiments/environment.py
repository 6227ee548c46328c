"""Where a result was made: versions, machine and source, without names of people or folders."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from synaptic_intelligence.document import JSON
from synaptic_intelligence.version import __version__

_PACKAGE = Path(__file__).resolve().parents[1]


def describe_environment(device: str, threads: int, workers: int) -> dict[str, JSON]:
    """Return the environment record of a result.

    Args:
        device: the device of the computation, as torch names it.
        threads: torch's threads per process.
        workers: processes side by side.

    Example:
        >>> record = describe_environment("cpu", threads=1, workers=2)
        >>> record["device"], record["threads"], record["workers"]
        ('cpu', 1, 2)
    """
    return {
        "synaptic_intelligence": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "device_name": device_name(device),
        "threads": threads,
        "workers": workers,
        "cpu_count": os.cpu_count(),
        "git": git_state(_PACKAGE),
    }


def device_name(device: str) -> str:
    """Return the make of the device, or the machine's architecture where it does not tell.

    Example:
        >>> bool(device_name("cpu"))
        True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor() or platform.machine()} ({capability})"


def git_state(package: Path) -> dict[str, JSON] | None:
    """Return commit and whether files of the package differ from it; None where it is no checkout of this project.

    An installed package may lie in a virtual environment inside another project's checkout: that commit says nothing.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / package.name != package:
        return None
    commit = _git(package, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    return None if commit is None else {"commit": commit, "changed": changes != ""}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
