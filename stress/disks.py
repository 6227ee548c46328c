"""A disk that is full and a folder that is read-only: `python stress/disks.py`, as root on Linux.

Everything that the project writes is written once onto a disk of a megabyte (tmpfs). Then the disk is filled, to the
last byte, or but for a few kilobytes that what is written next does not fit into, or it is made read-only, and all is
written again. Each attempt must raise an OSError that says what is wrong and where; the old file must be as it was,
byte for byte, and no other may be there. The command line must say it in one line without a traceback, with an exit
code. Without root nothing can be mounted: then it says so. Writes results/stress-disks.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from record import ROOT, Record, parser

from synaptic_intelligence.checkpoint import write_importance
from synaptic_intelligence.experiments.checkpoint import Checkpoint, write_checkpoint
from synaptic_intelligence.experiments.plan import Record as Measured
from synaptic_intelligence.findings import Findings, write_findings
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.merging import merge_importance
from synaptic_intelligence.report import save_figure, write_page
from synaptic_intelligence.result import read_result, write_result

MEGABYTE = 2**20
ROOM = (0, 4096, 16384)  # bytes that are left
LONG = "x" * 40_000  # what is written takes more than the room that is left


def writers(folder: Path) -> Mapping[str, tuple[str, Callable[[Path], object]]]:
    """Return what the project writes: by name the file, and what writes it; ``folder`` takes what they read."""
    result = replace(read_result(ROOT / "results" / "demo.json"), command=LONG)
    findings = Findings("toy", "Toy", {}, [], {"x": 1.0}, {}, LONG, "2025-01-31T12:00:00+00:00", 1.0)
    tensors = {"w": torch.ones(10_000)}
    file = ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 0, tensors, {"w": torch.zeros(10_000)}, {})
    noise = Figure()
    noise.figimage(torch.rand(200, 200).numpy())  # which no compression makes small
    parts = [folder / f"{name}.safetensors" for name in "ab"]
    for part in parts:
        write_importance(file, part)
    order = torch.Generator().manual_seed(0).get_state()
    checkpoint = Checkpoint(0, 1, 0.0, tensors, {}, {}, order, [order], Measured([0.5]))
    return {
        "importance": ("importance.safetensors", lambda path: write_importance(file, path)),
        "merged": ("merged.safetensors", lambda path: merge_importance(parts, path)),
        "result": ("result.json", lambda path: write_result(result, path)),
        "findings": ("findings.json", lambda path: write_findings(findings, path)),
        "checkpoint": ("seed-0-c-1.0.pt", lambda path: write_checkpoint(checkpoint, path)),
        "page": ("report.html", lambda path: write_page(result, Figure(), path)),
        "figure": ("figure.png", lambda path: save_figure(noise, path.parent)),
    }


def attempt(write: Callable[[Path], object], path: Path) -> str:
    """Return what was wrong with an attempt to write where nothing can be written; empty: all is as promised."""
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    try:
        write(path)
    except OSError as error:
        said = str(error)
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    else:
        return "it raised nothing"
    after = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    if after != before:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return f"it has changed {changed}"
    if str(path.parent) not in said:
        return f"its message does not say where: {said}"
    return ""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of a megabyte at a new folder, and take it away in the end."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, room: int) -> None:
    """Fill a disk but for ``room`` bytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1024))
            except OSError:
                break
        # The last write may have come in part.
        file.truncate(file.tell() // 4096 * 4096 - room)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Make a disk read-only for a while."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def library(scratch: Path, broken: list[str]) -> list[dict[str, Any]]:
    """Try all that writes in each state of the disk; return the figures."""
    rows = []
    for name, (file, write) in writers(scratch).items():
        tried = 0
        for room in (*ROOM, None):
            with small_disk(scratch / f"{name}-{room}") as disk:
                write(disk / file)
                if room is None:
                    with read_only(disk):
                        problem = attempt(write, disk / file)
                else:
                    fill(disk, room)
                    problem = attempt(write, disk / file)
            tried += 1
            if problem:
                broken.append(f"{name}, {'read-only' if room is None else f'{room} bytes left'}: {problem}")
        wrong = sum(each.startswith(f"{name},") for each in broken)
        rows.append({"what": name, "tried": tried, "as_promised": tried - wrong})
        print(rows[-1], flush=True)
    return rows


def said(words: list[str]) -> tuple[int, str]:
    """Return the exit code of a command line, and what it says to stderr."""
    done = subprocess.run([sys.executable, "-m", "synaptic_intelligence.cli", *words], capture_output=True, text=True)
    return done.returncode, done.stderr


def commands(scratch: Path, broken: list[str]) -> list[dict[str, Any]]:
    """Try the command line on a full and on a read-only disk; return the figures."""
    short = ["run", "split-mnist", "--seeds", "1", "--c", "1", "--epochs", "1", "--limit", "64", "--tasks", "2"]
    demo = str(ROOT / "results" / "demo.json")
    part, other = (str(scratch / f"{name}.safetensors") for name in "ab")
    rows: list[dict[str, Any]] = []
    for name, words, out in (
        ("synaptic run", [*short, "--workers", "1"], "run"),
        ("synaptic run, two workers", [*short, "--workers", "2"], "run"),
        ("synaptic report", ["report", demo], "report"),
        ("synaptic merge", ["merge", part, other], "merged.safetensors"),
    ):
        for state in ("full", "nearly full", "read-only"):
            with small_disk(scratch / f"{out}-{state}-{len(rows)}") as disk:
                command = [*words, "--out", str(disk / out)]
                if state == "read-only":
                    with read_only(disk):
                        code, text = said(command)
                else:
                    # A run needs room to begin; its checkpoints have none.
                    fill(disk, 0 if state == "full" else 65536)
                    code, text = said(command)
                left = [str(each.relative_to(disk)) for each in disk.rglob("*.part")]
            lines = text.strip().splitlines()
            ours = [line for line in lines if line.startswith("synaptic: ")]
            problems = {
                "no error": code not in (1, 2),
                "a traceback": "Traceback" in text,
                f"{len(ours)} lines that say why": len(ours) != 1,
                "no reason": "No space left" not in text and "Read-only" not in text,
                f"left over: {left}": bool(left),
            }
            broken += [f"{name}, {state}: {problem}: {text.strip()}" for problem, found in problems.items() if found]
            rows.append(
                {
                    "what": name,
                    "disk": state,
                    "exit_code": code,
                    "said": (ours or lines or [""])[0].replace(str(disk), "DISK"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Fill disks, print and write."""
    given = parser(__doc__, "disks").parse_args()
    if os.name != "posix" or os.geteuid() != 0:
        print("not root: no disk of a megabyte can be mounted here, nothing was tried")
        return
    torch.set_num_threads(1)
    record = Record("python stress/disks.py", given.out)
    with tempfile.TemporaryDirectory() as folder:
        record.rows += library(Path(folder), record.broken)
        record.rows += commands(Path(folder), record.broken)
    record.end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
