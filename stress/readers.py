"""Readers of a file that is replaced all the time: `python stress/readers.py --seconds 60`.

One process writes a result file, or an importance file, as fast as it can, three versions of other lengths in turn.
Four others read it as fast as they can, by the library. Each must read one of the three versions, whole, every time.
Writes results/stress-readers.json.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from record import ROOT, Record, parser

from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.result import read_result, write_result

READERS = 4
SIZES = (1, 1000, 60_000)


def result_of(size: int, path: Path) -> None:
    """Write the result with this number."""
    write_result(replace(read_result(ROOT / "results" / "demo.json"), title=str(size), command="x" * size), path)


def size_of_result(path: Path) -> int:
    """Return the number of the result that is read, or raise."""
    found = read_result(path)
    if len(found.command) != int(found.title):
        raise ValueError("parts of two results")
    return int(found.title)


def importance_of(size: int, path: Path) -> None:
    """Write the importance file with this number."""
    omega, anchor = torch.full((size,), float(size)), torch.full((size,), -float(size))
    write_importance(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, size, 0, {"w": omega}, {"w": anchor}, {}), path)


def size_of_importance(path: Path) -> int:
    """Return the number of the importance file that is read, or raise."""
    found = read_importance(path)
    omega, anchor = found.omega["w"], found.anchor["w"]
    if not len(omega) == len(anchor) == found.tasks or bool((omega != len(omega)).any() or (anchor != -omega).any()):
        raise ValueError("parts of two importance files")
    return found.tasks


KINDS: dict[str, tuple[str, Callable[[int, Path], None], Callable[[Path], int]]] = {
    "result": ("result.json", result_of, size_of_result),
    "importance": ("importance.safetensors", importance_of, size_of_importance),
}


def replace_often(kind: str, path: Path, seconds: float, start: Any, said: Any) -> None:
    """Write the file for so long; tell how often."""
    torch.set_num_threads(1)
    start.wait()
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        KINDS[kind][1](SIZES[count % len(SIZES)], path)
        count += 1
    said.put(("written", count, {*SIZES}, ""))


def read_often(kind: str, path: Path, seconds: float, start: Any, said: Any) -> None:
    """Read the file for so long; tell how often, which versions were met, and what was wrong."""
    torch.set_num_threads(1)
    met: set[int] = set()
    start.wait()
    until, count, wrong = time.monotonic() + seconds, 0, ""
    while time.monotonic() < until and not wrong:
        try:
            met.add(KINDS[kind][2](path))
            count += 1
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
    said.put(("read", count, met, wrong))


def contend(kind: str, seconds: float, folder: Path, readers: int = READERS) -> tuple[dict[str, Any], Sequence[str]]:
    """Let one process write and others read; return the figures, and what was wrong."""
    path = folder / KINDS[kind][0]
    KINDS[kind][1](SIZES[0], path)
    context = get_context("forkserver")
    context.set_forkserver_preload(["synaptic_intelligence", "synaptic_intelligence.experiments", "scipy.stats"])
    said = context.Queue()
    start = context.Barrier(readers + 1)
    jobs = [replace_often, *[read_often] * readers]
    processes = [context.Process(target=job, args=(kind, path, seconds, start, said)) for job in jobs]
    for process in processes:
        process.start()
    heard = [said.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    left = sorted(each.name for each in folder.iterdir() if each != path)
    counts = {what: sum(count for did, count, _, _ in heard if did == what) for what in ("written", "read")}
    wrong = [each for *_, each in heard if each] + ([f"left over: {left}"] if left else [])
    if not wrong and {*SIZES} != set().union(*(met for did, _, met, _ in heard if did == "read")):
        wrong.append("not every version was met: try for longer")
    return {"file": path.name, "readers": readers, **counts, "broken": len(wrong)}, wrong


def main() -> None:
    """Contend, print and write."""
    options = parser(__doc__, "readers")
    options.add_argument("--seconds", type=float, default=60.0, help="for each file")
    given = options.parse_args()
    record = Record(f"python stress/readers.py --seconds {given.seconds:g}", given.out)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            row, wrong = contend(kind, given.seconds, Path(folder))
        record.rows.append(row)
        record.broken += [f"{kind}: {each}" for each in wrong]
        print(row, flush=True)
    record.end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
