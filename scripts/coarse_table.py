"""The table of what omega in bfloat16 changes: each run beside the same one with omega in float32."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.report.statistics import mean_and_interval
from synaptic_intelligence.report.wording import method_name
from synaptic_intelligence.result import Result, Run, read_result

_FREE = ("c", "rivals", "fisher_images", "seeds", "first_seed", "coarse_omega")


def coarse_table(files: list[Path]) -> str:
    """Return the table of all results among ``files`` whose omega is bfloat16, beside the others of the same settings.

    Raises:
        ValueError: a run has no other beside it.
    """
    results = {file: read_result(file) for file in files}
    lines = [
        "| | seeds | omega in float32 | in bfloat16 | difference, seed by seed |",
        "| :-- | --: | --: | --: | --: |",
    ]
    links = []
    for file, result in results.items():
        if not result.settings.get("coarse_omega"):
            continue
        links.append(f"[`{file.name}`](results/{file.name})")
        others = [run for other in results.values() if _form(other) == _form(result) for run in _wide(other)]
        short = "" if result.deviations == ["omega in bfloat16"] else ", a short form"
        for method, c in dict.fromkeys((run.method, run.c) for run in result.complete_runs):
            pairs = [
                (_average(_same(run, others, file)), _average(run))
                for run in result.complete_runs
                if (run.method, run.c) == (method, c)
            ]
            wide, narrow = (mean_and_interval(list(values)) for values in zip(*pairs, strict=True))
            difference = mean_and_interval([after - before for before, after in pairs])
            name = f"{result.title}{short}, {method_name(method, c)}"
            lines.append(f"| {name} | {len(pairs)} | {wide} | {narrow} | {difference} |")
    told = "Average accuracy on test images after the last task; the files have the commands, and say what is short"
    return "\n".join([*lines, "", f"{told}: {', '.join(links)}.", ""])


def _form(result: Result) -> dict[str, JSON]:
    # Settings that are younger than a file were as their default is: False.
    names = [name for name in Settings.__dataclass_fields__ if name not in _FREE]
    return {"experiment": result.experiment, **{name: result.settings.get(name, False) for name in names}}


def _wide(result: Result) -> list[Run]:
    return [] if result.settings.get("coarse_omega") else result.complete_runs


def _same(run: Run, others: list[Run], file: Path) -> Run:
    for other in others:
        if (other.seed, other.method, other.c) == (run.seed, run.method, run.c):
            return other
    raise ValueError(f"{file}: there is no run with omega in float32 beside seed {run.seed}, c = {run.c}")


def _average(run: Run) -> float:
    return fmean(run.accuracy[-1])
