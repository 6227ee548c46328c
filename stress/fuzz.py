"""Damaged and hostile files by the hundred thousand: `python stress/fuzz.py --inputs 100000 --format result`.

Each input is made from a seed and its number: bits flipped, bytes cut, inserted and spliced, JSON with absurd values
and depths, headers and archives changed inside with lengths and checksums made right; before them pickles that would
make a file if anything unpickled them, and archives that unpack to gigabytes. Formats: see formats.py.

A child process reads them, with a gigabyte of memory and 5 seconds for each. An input may be read, or refused with the
error that the reader documents; anything else breaks the promise, and the input is saved. Without --format all of them
are tried in turn. Adds to results/stress-fuzz.json.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, final

import torch
from formats import FORMATS, Format, bombs
from record import Record, parser

MEMORY, SECONDS, MOST_KINDS = 2**30, 5.0, 20


@final
@dataclass
class Inputs:
    """The inputs of a format, by number."""

    name: str
    seed: int
    folder: Path

    @cached_property
    def format(self) -> Format:
        """The format."""
        return FORMATS[self.name](self.folder)

    @property
    def marker(self) -> Path:
        """The file that hostile inputs would make."""
        return self.folder / "marker"

    @cached_property
    def hostile(self) -> list[bytes]:
        """The inputs with the first numbers."""
        return [*self.format.hostile(self.marker), *bombs(self.name)]

    def prove(self) -> None:
        """Raise an error unless the undamaged inputs are read."""
        for whole in self.format.corpus:
            (self.folder / self.format.file).write_bytes(whole)
            if not self.format.read(self.folder / self.format.file):
                raise ValueError(f"{self.name}: an undamaged input is refused")

    def __getitem__(self, number: int) -> bytes:
        if number < len(self.hostile):
            return self.hostile[number]
        return self.format.damaged(Random(f"{self.name} {self.seed} {number}"))

    def outcome(self, content: bytes) -> str:
        """Return what came of an input: ``read``, ``refused``, or else what was wrong."""
        path = self.folder / self.format.file
        path.write_bytes(content)
        try:
            said = "read" if self.format.read(path) else "refused"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
        if self.marker.exists():
            self.marker.unlink()
            return "the input was unpickled and has run"
        return said


@final
class Broken:
    """The inputs that broke the promise, by how."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kinds: dict[tuple[str, str], list[int]] = {}  # error and place
        self.first: dict[tuple[str, str], str] = {}

    def add(self, number: int, what: str) -> None:
        """Note one, and tell of it if it is the first of its kind."""
        kind = what.partition(":")[0], what.rpartition("(")[2]
        if kind not in self.kinds:
            self.first[kind] = what
            print(f"{self.name}, input {number}: {what}", flush=True)
        self.kinds.setdefault(kind, []).append(number)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.kinds.values()))

    @property
    def enough(self) -> bool:
        """Whether there is no point in looking further."""
        return len(self.kinds) >= MOST_KINDS


def work(inputs: Inputs, first: int, stop: int, shared: Any, pipe: Any) -> None:
    """What the child does: read inputs, and tell of those that broke a promise.

    ``shared`` holds the number of the input at work, since when, how many were read and refused, and the longest time.
    """
    torch.set_num_threads(1)
    inputs.folder.mkdir()
    _ = inputs.hostile
    inputs.prove()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, stop):
        content = inputs[number]
        began = time.monotonic()
        shared[0], shared[1] = number, began
        said = inputs.outcome(content)
        shared[1] = 0.0
        shared[4] = max(shared[4], time.monotonic() - began)
        if said in ("read", "refused"):
            shared[2 if said == "read" else 3] += 1
        else:
            pipe.send((number, said))
    pipe.send((stop, ""))


def fuzz(name: str, count: int, seed: int, record: Record) -> dict[str, Any]:
    """Try so many inputs of a format; return the figures."""
    context = get_context("spawn")
    shared = context.Array("d", 5)
    began = said = time.monotonic()
    found = Broken(name)
    first = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        attempt = 0
        while first < count and not found.enough:
            ours, theirs = context.Pipe()
            attempt += 1
            inputs = Inputs(name, seed, Path(scratch) / str(attempt))
            child = context.Process(target=work, args=(inputs, first, count, shared, theirs))
            shared[0], shared[1] = first, 0.0
            child.start()
            theirs.close()
            first = count
            while not found.enough:
                try:
                    if ours.poll(0.2):
                        number, what = ours.recv()
                        if not what:
                            break
                        found.add(number, what)
                except EOFError:
                    child.join()
                    code = child.exitcode or 0
                    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    found.add(int(shared[0]), f"the process ended: {how}")
                    first = int(shared[0]) + 1
                    break
                since = shared[1]
                if since and time.monotonic() - since > SECONDS:
                    found.add(int(shared[0]), f"took more than {SECONDS:g} s")
                    first = int(shared[0]) + 1
                    break
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    print(f"{name}: {int(shared[0])} of {count} inputs", flush=True)
            child.kill()
            child.join()
            ours.close()
        again = Inputs(name, seed, Path(scratch) / "again")
        again.folder.mkdir()
        for kind, numbers in found.kinds.items():
            saved = record.keep(f"{name}-{numbers[0]}-{again.format.file}", again[numbers[0]])
            record.broken.append(f"{name}, {len(numbers)} inputs: {found.first[kind]}; the first is {saved.name}")
        hostile = len(again.hostile)
    return {
        "format": name,
        "inputs": count,
        "seed": seed,
        "hostile": hostile,
        "read": int(shared[2]),
        "refused": int(shared[3]),
        "broken": found.count,
        "longest_seconds": round(shared[4], 3),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Fuzz, print and write."""
    options = parser(__doc__, "fuzz")
    options.add_argument("--inputs", type=int, default=100_000, help="of each format")
    options.add_argument("--format", action="append", choices=list(FORMATS), help="repeat it for several; default: all")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    record = Record(f"python stress/fuzz.py --inputs {given.inputs}", given.out)
    names = given.format or list(FORMATS)
    if given.format and given.out.exists():
        record.rows = [row for row in json.loads(given.out.read_text("utf-8"))["rows"] if row["format"] not in names]
        record.seconds_before = sum(row["seconds"] for row in record.rows)
    for name in names:
        row = fuzz(name, given.inputs, given.seed, record)
        record.rows = sorted([*record.rows, row], key=lambda each: list(FORMATS).index(each["format"]))
        print(row, flush=True)
        record.write(done=False)
    record.end()


if __name__ == "__main__":
    main()
