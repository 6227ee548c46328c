"""What every run asks of the machine, checked before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def check_machine(threads: int, data_dir: Path | None, out: Path | None) -> None:
    """Refuse threads that the machine has no cores for, a data folder that is not there, and a file as a folder.

    Raises:
        ValueError: one of them makes no sense; the message names it.
    """
    if threads < 1:
        raise ValueError(f"--threads must be 1 or more, not {threads}")
    if threads > (cores := os.cpu_count() or threads):
        raise ValueError(f"--threads must be at most {cores}, the cores of this machine, not {threads}")
    if data_dir is not None and not data_dir.is_dir():
        raise ValueError(f"--data-dir {data_dir} (or SYNAPTIC_DATA_DIR): there is no such folder")
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: there is a file of that name, where a folder is to be")


def check_workers(workers: int | None) -> None:
    """Refuse fewer processes than none.

    Raises:
        ValueError: so it is.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"--workers must be 0 or more, not {workers}")


def existing_device(name: str) -> str:
    """Return the device of that name; for "auto" a GPU, if there is one.

    Raises:
        ValueError: this machine has no such device; the message names those that it has.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # The meta device exists everywhere, but holds no numbers.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        accelerator = torch.accelerator.current_accelerator()
        count = 0 if accelerator is None else torch.accelerator.device_count()
        there = ["cpu", *(f"{accelerator}:{number}" for number in range(count))]
        raise ValueError(f"--device {name}: not available here; there are: {', '.join(there)}") from error
    return str(device)
