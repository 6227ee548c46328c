"""What each of these scripts leaves behind: one JSON file that says what was tried, where, and what came of it."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np
import torch
from scipy.stats import t as student

from synaptic_intelligence.document import write_document
from synaptic_intelligence.experiments.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent


@final
@dataclass
class Record:
    """What a script has found so far.

    Args:
        command: gives the same again.
        path: where it is written; failing cases are saved beside it.
        rows: figures, one row for each thing that was tried.
        broken: the promises that did not hold, in words; empty: all did.
        seconds_before: what the rows took that an earlier run has found.

    Example:
        >>> import tempfile
        >>> record = Record("python stress/none.py", Path(tempfile.mkdtemp()) / "stress-none.json")
        >>> record.rows.append({"tried": 1})
        >>> record.write(done=True)
        >>> record.path.exists()
        True
    """

    command: str
    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def write(self, *, done: bool) -> None:
        """Write the file in one step: a stop leaves the one before it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": self.command,
            "environment": describe_environment("cpu", torch.get_num_threads(), 1),
            "started": self.started,
            "wall_seconds": round(self.seconds_before + time.monotonic() - self._began, 1),
            "done": done,
            "broken": self.broken,
            "rows": self.rows,
        }
        write_document(document, self.path)

    def keep(self, name: str, content: bytes) -> Path:
        """Save a case that broke a promise, and return where."""
        folder = self.path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    def end(self) -> NoReturn:
        """Write the file for the last time, and end with exit code 1 if a promise was broken."""
        self.write(done=True)
        for promise in self.broken:
            print(f"BROKEN: {promise}", file=sys.stderr)
        print(f"{'broken' if self.broken else 'all promises held'}: {self.path}", flush=True)
        sys.exit(1 if self.broken else 0)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser that has the option of every script, ``--out``."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument(
        "--out", type=Path, default=ROOT / "results" / f"stress-{name}.json", help="where the figures are written"
    )
    return made


@final
@dataclass(frozen=True)
class Trend:
    """A straight line through points, by least squares.

    Args:
        slope: units of y for one unit of x.
        half_width: of its 95 % interval, by Student's t.
    """

    slope: float
    half_width: float


def trend(x: Sequence[float], y: Sequence[float]) -> Trend:
    """Return how ``y`` grows with ``x``; at least three points.

    Example:
        >>> trend([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
        Trend(slope=2.0, half_width=0.0)
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    deviations = xs - xs.mean()
    spread = float(deviations @ deviations)
    slope = float(deviations @ (ys - ys.mean())) / spread
    left = ys - ys.mean() - slope * deviations
    error = math.sqrt(float(left @ left) / (len(xs) - 2) / spread)
    return Trend(slope, float(student.ppf(0.975, len(xs) - 2)) * error)


def resident_bytes() -> int:
    """Return the memory that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Return how many file descriptors are open in this process (Linux)."""
    return len(os.listdir("/proc/self/fd"))
