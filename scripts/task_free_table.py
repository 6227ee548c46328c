"""The tables of benchmarks/task_free.py: `python scripts/task_free_table.py` prints them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from synaptic_intelligence.report.statistics import mean_and_interval

_ROOT = Path(__file__).resolve().parent.parent


def task_free_table(file: Path) -> str:
    """Return what each way to decide has kept, where it consolidated, and the search for the plateau's settings."""
    found = json.loads(file.read_text("utf-8"))
    first = found["seeds"][0]
    lines = [
        f"| | average accuracy at the end | over told, seed by seed | consolidations | at these steps (seed {first}) |",
        "| :-- | --: | --: | --: | :-- |",
    ]
    for arm in found["arms"]:
        runs = [run for run in found["runs"] if run["arm"] == arm["name"]]
        estimate = mean_and_interval([fmean(run["accuracy"]) for run in runs])
        steps = next(run["consolidated"] for run in runs if run["seed"] == first)
        # Without a pull it makes no difference where omega is renewed.
        counts, at = (_range(runs), _shown(steps)) if arm["c"] else ("", "")
        lines.append(f"| {_name(arm)} | {estimate} | {_over_told(found, runs)} | {counts} | {at} |")
    ends = [str(sum(found["steps"][: number + 1])) for number in range(len(found["steps"]))]
    searched = sorted(fmean(row["accuracy"]) for row in found["search"])
    chosen = next(arm["plateau"] for arm in found["arms"] if arm["plateau"] is not None)
    strength = f"c = {max(arm['c'] for arm in found['arms']):g}, xi = {found['xi']:g}"
    settings = ", ".join(f"`{name}={value:g}`" for name, value in chosen.items())
    told = (
        f"Split MNIST, {found['epochs']} epochs of each task, which end at the steps {', '.join(ends)}; averages over "
        f"the {len(ends)} tasks; one Adam for all of them; {strength}; {len(found['seeds'])} seeds. `Every` has the "
        f"mean number of a task's steps, and {found['mistuned']:g} of it. `Plateau` has {settings}: what did best of "
        f"{len(searched)} on seed {found['search_seed']}, which is none of these. There they reached {searched[0]:.3f} "
        f"to {searched[-1]:.3f}:"
    )
    lines += ["", told, "", *_search(found), ""]
    environment = found["environment"]
    machine = f"{environment['device_name']}, torch {environment['torch']}"
    lines.append(
        f"Made by `{found['command']}` in {found['cpu_seconds'] / 60:.0f} minutes of one core ({machine}): "
        f"[`{file.name}`](results/{file.name})."
    )
    return "\n".join([*lines, ""])


def _over_told(found: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Return what runs have over those that were told, or nothing for these themselves."""
    told = {run["seed"]: fmean(run["accuracy"]) for run in found["runs"] if run["arm"] == "told"}
    if runs[0]["arm"] == "told":
        return ""
    over = mean_and_interval([fmean(run["accuracy"]) - told[run["seed"]] for run in runs])
    return f"{over.mean:+.3f}" + ("" if over.half_width is None else f" ± {over.half_width:.3f}")


def _name(arm: dict[str, Any]) -> str:
    if not arm["c"]:
        return "without synapses"
    if arm["plateau"] is not None:
        return "`Plateau`"
    return "told where tasks end" if arm["every"] is None else f"`Every({arm['every']})`"


def _range(runs: list[dict[str, Any]]) -> str:
    counts = sorted(len(run["consolidated"]) for run in runs)
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _shown(steps: list[int]) -> str:
    return ", ".join(map(str, steps))


def _search(found: dict[str, Any]) -> list[str]:
    lines = [
        "| window | mean below | std below | average accuracy | consolidations |",
        "| --: | --: | --: | --: | --: |",
    ]
    for row in found["search"]:
        numbers = [f"{row[name]:g}" for name in ("window", "mean_below", "std_below")]
        numbers += [f"{fmean(row['accuracy']):.3f}", str(len(row["consolidated"]))]
        lines.append(f"| {' | '.join(numbers)} |")
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    print(task_free_table(_ROOT / "results" / "task-free.json"))
