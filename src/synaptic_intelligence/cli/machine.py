"""What every run asks of the machine, checked before it starts."""

from __future__ import annotations

import os
from pathlib import Path


def check_machine(threads: int, data_dir: Path | None) -> None:
    """Refuse threads that the machine has no cores for, and a data folder that is not there.

    Raises:
        ValueError: one of them makes no sense; the message names it.
    """
    if threads < 1:
        raise ValueError(f"--threads must be 1 or more, not {threads}")
    if threads > (cores := os.cpu_count() or threads):
        raise ValueError(f"--threads must be at most {cores}, the cores of this machine, not {threads}")
    if data_dir is not None and not data_dir.is_dir():
        raise ValueError(f"--data-dir {data_dir} (or SYNAPTIC_DATA_DIR): there is no such folder")
