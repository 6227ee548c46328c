"""What the scripts in stress/ have found, in tables: from results/stress-*.json, for docs/reliability.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def stress_table(file: Path) -> str:
    """Return the table of a stress script's figures, what it broke, and how it was made.

    Raises:
        ValueError: the file is of a script that is not known here, or of one that has not ended.
    """
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    name = file.stem.removeprefix("stress-")
    if name not in _TABLES:
        raise ValueError(f"{file}: scripts/stress_table.py knows {sorted(_TABLES)}")
    if not found["done"]:
        raise ValueError(f"{file}: {found['command']} has not ended")
    broken = [f"- **Broken:** {promise}" for promise in found["broken"]]
    environment = found["environment"]
    changed = " with changes" if environment["git"]["changed"] else ""
    code = f"commit {environment['git']['commit'][:7]}{changed}"
    machine = f"{environment['device_name']}, torch {environment['torch']}, {code}"
    made = f"`{found['command']}`, {_time(found['wall_seconds'])} on a shared machine ({machine})"
    outcome = "" if broken else " Every promise held."
    link = f"[`{file.name}`](results/{file.name})"
    return "\n".join([*_TABLES[name](found["rows"]), "", f"{made}: {link}.{outcome}", *broken, ""])


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _table(columns: tuple[str, ...], cells: list[tuple[object, ...]]) -> list[str]:
    lines = ["|" + "|".join(f" {each} " if each else " " for each in columns) + "|"]
    lines.append("| :-- |" + " --: |" * (len(columns) - 1))
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in cells)]


def _kills(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("", "kills", "over so many runs", "most in one run", "half a file left behind", "lost")
    names = ("kills", "runs", "most_in_one_run", "left_half_a_file", "lost")
    return _table(columns, [(_code(row["what"]), *(row[name] for name in names)) for row in rows])


def _fuzz(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("", "inputs", "read", "refused", "anything else", "longest, seconds")
    cells: list[tuple[object, ...]] = []
    for row in rows:
        counts = (f"{row[name]:,}".replace(",", " ") for name in ("inputs", "read", "refused", "broken"))
        cells.append((_FORMATS[row["format"]], *counts, f"{row['longest_seconds']:.2f}"))
    return _table(columns, cells)


def _consolidations(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("", "consolidations", "bytes more for each", "time more at the end", "worst error", "largest omega")
    cells: list[tuple[object, ...]] = []
    for row in rows:
        grown, rise = row["bytes_for_each"], row["time_rise"]
        time = f"{100 * rise[0]:.1f} ± {100 * rise[1]:.1f} %"
        bytes_ = f"{grown[0]:.1f} ± {grown[1]:.1f}"
        error = f"{row['worst_error_of_one']:.0e}"
        cells.append((row["form"], row["consolidations"], bytes_, time, error, f"{row['largest_omega']:.1f}"))
    return _table(columns, cells)


def _soak(rows: list[dict[str, Any]]) -> list[str]:
    (row,) = rows
    told = f"{row['hours']:.2f} hours, {row['tasks']} tasks of {row['steps'] // row['tasks']} steps."
    cells: list[tuple[object, ...]] = []
    for name, grown in row["grown"].items():
        if "rise" in grown:
            low, high = grown["rise_interval"]
            mean = f"{grown['mean']:.0f} MB" if name == "resident_mb" else f"{grown['mean']:.2f} times plain Adam's"
            rise = f"{100 * grown['rise']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            cells.append((_QUANTITIES.get(name, name), mean, rise, f"{100 * grown['limit']:g} %"))
        else:
            rise = f"{grown['second_half'] - grown['first_half']}"
            cells.append((_QUANTITIES[name], f"at most {grown['second_half']}", rise, "0"))
    return [told, "", *_table(("", "in the second half", "growth in it (95 %)", "limit"), cells)]


def _disks(rows: list[dict[str, Any]]) -> list[str]:
    written = [(row["what"], row["tried"], row["as_promised"]) for row in rows if "tried" in row]
    said = [(_code(row["what"]), row["disk"], row["exit_code"], f"`{row['said']}`") for row in rows if "said" in row]
    return [
        *_table(("", "attempts", "clear error, old file intact, nothing left over"), list(written)),
        "",
        *_table(("", "disk", "exit code", "says"), list(said)),
    ]


def _readers(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("", "readers", "times replaced", "times read whole", "read otherwise")
    names = ("readers", "written", "read", "broken")
    return _table(columns, [(f"`{row['file']}`", *(row[name] for name in names)) for row in rows])


def _code(what: str) -> str:
    command, comma, rest = what.partition(",")
    return f"`{command}`{comma}{rest}" if command.startswith("synaptic ") else what


_FORMATS = {
    "importance": "importance file (`synapses.load`)",
    "state-dict": "state of the synapses (`load_state_dict`)",
    "result": "result file",
    "findings": "findings file",
    "checkpoint": "checkpoint of an experiment",
    "mnist-labels": "MNIST, labels",
    "mnist-images": "MNIST, images",
    "cifar-cache": "cache of CIFAR",
}
_QUANTITIES = {"resident_mb": "memory of the process", "open_files": "open files", "tensors": "live tensors"}
_TABLES: dict[str, Callable[[list[dict[str, Any]]], list[str]]] = {
    "kills": _kills,
    "fuzz": _fuzz,
    "consolidations": _consolidations,
    "soak": _soak,
    "disks": _disks,
    "readers": _readers,
}
