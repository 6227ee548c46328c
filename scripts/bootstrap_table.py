"""The table of benchmarks/bootstrap.py: what is kept of a checkpoint, by each way to fill its importance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synaptic_intelligence.report.statistics import mean_and_interval

_COLUMNS = ("importance from", "c", "digits 0 to 4", "digits 5 to 9", "both", "to estimate, seconds of one core")


def bootstrap_table(file: Path) -> str:
    """Return the table: of each way the strength that was chosen, and the accuracies on test images."""
    found = json.loads(file.read_text("utf-8"))
    lines = [f"| {' | '.join(_COLUMNS)} |", "| :-- |" + " --: |" * (len(_COLUMNS) - 1)]
    lines.append(f"| the checkpoint, before |  | {mean_and_interval(found['before'])} |  |  |  |")
    for way, c in found["chosen"].items():
        (row,) = (row for row in found["rows"] if (row["way"], row["c"]) == (way, c))
        both = [(old + new) / 2 for old, new in zip(row["old"], row["new"], strict=True)]
        accuracies = " | ".join(str(mean_and_interval(values)) for values in (row["old"], row["new"], both))
        took = f"{mean_and_interval(found['estimate_seconds'][way]).mean:.1f}" if c else ""
        lines.append(f"| {way} | {_strength(found, way, c)} | {accuracies} | {took} |")
    sizes, short, environment = found["sizes"], found["settings"]["ShortPath"], found["environment"]
    ratio = [f"{each:.0f}" for each in sorted(found["path_over_half_fisher"])]
    told = (
        f"Accuracy on test images, mean and 95 % interval (Student's t) over {sizes['seeds']} seeds. Importance is "
        f"from {sizes['reference']} images of the old digits; c from a grid, by {sizes['held_out']} held-out training "
        f"images of each half. ShortPath has lr {short['lr']:g} and xi {short['xi']:g}."
    )
    compared = (
        f"The path integral's omega of the new digits, summed up, was {', '.join(ratio[:-1])} and {ratio[-1]} times "
        "half of their Fisher information, one number for each seed."
    )
    made = (
        f"Made by `{found['command']}` in {found['cpu_seconds'] / 60:.0f} minutes of one core "
        f"({environment['device_name']}, torch {environment['torch']}): [`results/{file.name}`](results/{file.name})."
    )
    return "\n".join([*lines, "", told, "", compared, "", made, ""])


def _strength(found: dict[str, Any], way: str, c: float) -> str:
    grid = [row["c"] for row in found["rows"] if row["way"] == way]
    return f"{c:g}" if len(grid) == 1 or min(grid) < c < max(grid) else f"{c:g}, the end of its grid"
