"""Examples, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, folder: Path, *, ranks: int = 1) -> str:
    """Run it in a folder, where it must leave nothing, and return what it prints.

    Raises:
        RuntimeError: it failed, with all that it said.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *torchrun, str(FOLDER / name)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode or list(folder.iterdir()):
        left = [path.name for path in folder.iterdir()]
        raise RuntimeError(f"{name} ended with {done.returncode}, and left {left}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def first_task_accuracies(printed: str) -> tuple[float, float]:
    """Return the accuracy on the first task with synapses and without, as the examples print it."""
    found = dict(re.findall(r"^(with|without) synapses: accuracy (\d\.\d+) on the first task", printed, re.MULTILINE))
    return float(found["with"]), float(found["without"])
