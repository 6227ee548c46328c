"""Make what README and docs quote from results/ again: `python scripts/build_docs.py`, or `make docs`.

A quoted part stands between `<!-- NAME from results/FILE.json -->` and `<!-- end -->`; NAME says which of the functions
below writes it. Figures go to docs/figures/. The page docs/paper.md is written whole, and then has such parts too: of
each experiment it shows results/EXPERIMENT.json, then results/EXPERIMENT-*.json, and last those of
EXPERIMENT-search*.json in one.
tests/test_build_docs.py fails if any of it is not what this makes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from aside import PARTS as ASIDE
from bootstrap_table import bootstrap_table
from choosing_figure import choosing_table, draw_choosing
from coarse_table import coarse_table
from matplotlib.figure import Figure
from overhead_figure import LEAST_OF_TRIAD, MOVED, draw_overhead, over_triad, peak, target
from overhead_figure import overhead as ratios_of
from stacks_table import stacks_table, works_with
from stress_table import stress_table
from task_free_table import task_free_table
from two_corpora_table import PARTS, draw_two_corpora

from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.paper.page import write_paper
from synaptic_intelligence.paper.row import accuracy_rows, markdown_rows
from synaptic_intelligence.paper.sections import SECTIONS
from synaptic_intelligence.report import draw_figure, markdown_table
from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.report.wording import numbers_shown, warnings
from synaptic_intelligence.result import read_result

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/bootstrap.md",
    "docs/choosing-c.md",
    "docs/cost.md",
    "docs/reliability.md",
    "docs/stacks.md",
    "docs/task-free.md",
    "docs/two-corpora.md",
)
FIGURES = Path("docs/figures")
_PART = re.compile(r"(<!-- (\w+) from (results/[\w.-]+\.json) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def table(file: Path) -> str:
    """Return the table of a result, and how it was made."""
    result = read_result(file)
    device, torch = result.environment["device"], result.environment["torch"]
    made = f"Made by `{result.command}` in {result.wall_seconds / 60:.1f} minutes"
    where = f"on {result.environment['cpu_count']} cores ({device}, torch {torch})"
    return f"{markdown_table(result)}\n{made} {where}: [`results/{file.name}`](results/{file.name}).\n"


def figure(file: Path) -> str:
    """Return the link to the figure of a result, which `build` draws."""
    title = read_result(file).title
    return f"![{title}: accuracy on each task as more tasks are learnt]({FIGURES / file.stem}.svg)\n"


def rows(file: Path) -> str:
    """Return a result's averages beside the paper's, and what must be said of them."""
    result = read_result(file)
    said = "".join(f"{text}\n\n" for text in [*warnings(result), numbers_shown(summarize(result))])
    made = f"Made by `{result.command}`: [`results/{file.name}`](results/{file.name})."
    return f"{markdown_rows([row for row in accuracy_rows(result) if row.expected != '-'])}\n{said}{made}\n"


def seconds(file: Path) -> str:
    """Return how long a run took."""
    result = read_result(file)
    machine = f"{result.environment['cpu_count']} cores ({result.environment['device_name']})"
    return f"The demo took {result.wall_seconds:.0f} seconds on {machine}.\n"


def overhead(file: Path) -> str:
    """Return the link to the figure of benchmarks/step_overhead.py, which `build` draws."""
    found = json.loads(file.read_text("utf-8"))
    return f"![Time with synapses over time without]({FIGURES / file.stem}.svg)\n\n{_measured(file, found)}\n"


def ratios(file: Path) -> str:
    """Return how long steps take over plain training's, and the target where there is one."""
    found = json.loads(file.read_text("utf-8"))
    forms = [form for form in found["forms"] if form != "plain"]
    lines = _header(forms)
    for part, name in (("training", "whole step"), ("step", "optimizer's step")):
        for row in found["rows"]:
            cells = []
            for form in forms:
                low, middle, high = ratios_of(row, part, form)
                # The targets are those of the forms that a machine offers, not of what is left without its kernel.
                most = None if file.stem.endswith("-compiled") else target(row["workload"], part, form)
                aim = "" if most is None else f", {'' if middle <= most else '**not** '}at most {most:g}"
                cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f}){aim}")
            lines.append(f"| {row['workload']}, {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _measured(file, found), ""])


def earlier(file: Path) -> str:
    """Say what another run of benchmarks/step_overhead.py gave for whole steps."""
    found = json.loads(file.read_text("utf-8"))
    cells = [
        f"{row['workload'].split(',')[0]} {ratios_of(row, 'training', 'inside')[1]:.2f} and "
        f"{ratios_of(row, 'training', 'hooks')[1]:.2f}"
        for row in found["rows"]
    ]
    return f"Whole step, inside and hooks: {'; '.join(cells)}. {_measured(file, found)}\n"


def traffic(file: Path) -> str:
    """Return the bytes per second of optimizer steps over those of a triad."""
    found = json.loads(file.read_text("utf-8"))
    lines = _header([*MOVED])
    lines.append("| numbers moved for each parameter | " + " | ".join(f"{moved:g}" for moved in MOVED.values()) + " |")
    for row in found["rows"]:
        cells = []
        for form in MOVED:
            reached, least = over_triad(row, form), LEAST_OF_TRIAD.get(form)
            aim = "" if least is None else f", {'' if reached >= least else '**not** '}at least {least:g}"
            cells.append(f"{reached:.2f}{aim}")
        lines.append(f"| {row['workload']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def peaks(file: Path) -> str:
    """Return the peaks of memory beyond plain training's, in multiples of the parameters' bytes."""
    found = json.loads(file.read_text("utf-8"))
    forms = [form for form in found["rows"][0]["peak_bytes"] if form != "plain"]
    lines = _header(forms)
    for row in found["rows"]:
        lines.append(f"| {row['workload']} | " + " | ".join(f"{peak(row, form):.1f}" for form in forms) + " |")
    return "\n".join([*lines, ""])


def python(file: Path) -> str:
    """Return what benchmarks/step_python.py has found."""
    found = json.loads(file.read_text("utf-8"))
    lines = _header(["microseconds for a step", "and for each tensor"])
    for row in found["rows"]:
        cells = ["{1:.1f} ({0:.1f} to {2:.1f})".format(*row["microseconds"][part]) for part in ("step", "tensor")]
        lines.append(f"| {row['form']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _measured(file, found), ""])


def loop(file: Path) -> str:
    """Return what benchmarks/training_loop.py has found."""
    found = json.loads(file.read_text("utf-8"))
    low, middle, high = found["ratio"]
    return f"{middle:.3f} times as long ({low:.3f} to {high:.3f}). {_measured(file, found)}\n"


def end_of_task(file: Path) -> str:
    """Return the table of benchmarks/end_of_task.py."""
    found = json.loads(file.read_text("utf-8"))
    threads = found["environment"]["threads"]
    lines = _header(["seconds, gradients whole", "as factors", "times as fast", "largest difference"])
    for row in found["rows"]:
        whole, factors = (median(row["seconds"][form]) for form in ("whole", "factors"))
        low, middle, high = row["times_faster"]
        faster = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        name = f"{row['network']}, {row['estimator']}"
        lines.append(f"| {name} | {whole:.3f} | {factors:.3f} | {faster} | {row['difference']:.0e} |")
    return "\n".join(
        [*lines, "", f"{found['images']} images, {threads} thread{'s' * (threads > 1)}. {_measured(file, found)}", ""]
    )


def replicates(file: Path) -> str:
    """Return what benchmarks/replicates.py has found."""
    found = json.loads(file.read_text("utf-8"))
    low, middle, high = found["times_faster"]["quartiles"]
    runs = f"{found['seeds']} seeds of {len(found['c'])} strengths"
    short = f", {found['epochs']} epoch of {found['limit']} images a task" if found["limit"] else ""
    than = found["times_faster"]["than"]
    return f"{runs}{short}: {middle:.2f} times as fast as {than} ({low:.2f} to {high:.2f}). {_measured(file, found)}\n"


def _header(columns: list[str]) -> list[str]:
    return ["| | " + " | ".join(columns) + " |", "| :-- |" + " --: |" * len(columns)]


def _measured(file: Path, found: dict[str, Any]) -> str:
    machine = f"{found['environment']['cpu_count']} cores ({found['environment']['device_name']})"
    git = found["environment"].get("git")
    machine += ", with changes that were not committed" if git and git["changed"] else ""
    rounds = f"medians and quartiles over {found['rounds']} rounds"
    return f"`{found['command']}`, {rounds}, on {machine}: [`{file.name}`](results/{file.name})."


def coarse(file: Path) -> str:
    """Return the table of what omega in bfloat16 changes, from this file and all others beside it that have it."""
    return coarse_table(sorted(path for path in file.parent.glob("*-mnist*.json")))


def workers(file: Path) -> str:
    """Return the table of benchmarks/workers.py."""
    found = json.loads(file.read_text("utf-8"))
    lines = ["| processes | threads of each | training, seconds (median, quartiles) |", "| --: | --: | --: |"]
    for row in found["rows"]:
        low, middle, high = row["quartiles"]
        lines.append(f"| {row['workers']} | {row['threads']} | {middle:.1f} ({low:.1f} to {high:.1f}) |")
    return "\n".join([*lines, "", f"`{found['command']}`, on {found['machine']}, {found['rounds']} rounds.", ""])


WRITERS: dict[str, Callable[[Path], str]] = {
    "table": table,
    "figure": figure,
    "rows": rows,
    "seconds": seconds,
    "overhead": overhead,
    "ratios": ratios,
    "earlier": earlier,
    "traffic": traffic,
    "peaks": peaks,
    "python": python,
    "loop": loop,
    "end_of_task": end_of_task,
    "replicates": replicates,
    "coarse": coarse,
    "workers": workers,
    **ASIDE,
    "stacks": stacks_table,
    "works": works_with,
    "stress": stress_table,
    "taskfree": task_free_table,
    "bootstrap": bootstrap_table,
    "choosing": choosing_table,
    **PARTS,
}


DRAWERS: dict[str, Callable[[Path], Figure]] = {
    "figure": lambda file: draw_figure(read_result(file)),
    "overhead": lambda file: draw_overhead(json.loads(file.read_text("utf-8"))),
    "choosing": lambda file: draw_choosing(json.loads(file.read_text("utf-8"))),
    "forgotten": lambda file: draw_two_corpora(json.loads(file.read_text("utf-8"))),
}


def _of(path: Path) -> str:
    """Return which experiment a result is of: the name of one may begin with that of another."""
    return max((name for name in SECTIONS if f"{path.stem}-".startswith(f"{name}-")), key=len, default="")


def build(source: Path, target: Path) -> list[Path]:
    """Write all pages and figures of the project at ``source`` to ``target``; return their paths below it."""

    def part(page: Path, match: re.Match[str]) -> str:
        begin, name, file, end = match.groups()
        if name not in WRITERS:
            raise ValueError(f"no part is named {name!r}; there are {sorted(WRITERS)}")
        if name in DRAWERS:
            drawn = FIGURES / f"{Path(file).stem}.svg"
            (target / FIGURES).mkdir(parents=True, exist_ok=True)
            (target / drawn).write_text(svg_text(DRAWERS[name](source / file)), "utf-8")
            written.append(drawn)
        text = WRITERS[name](source / file)
        if page.parent.name == "docs":  # links are those of a page in the project's own folder
            text = text.replace("](results/", "](../results/").replace("](docs/", "](")
        return begin + text + end

    def fill(page: Path, text: str) -> None:
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(_PART.sub(partial(part, page), text), "utf-8")
        written.append(page)

    written: list[Path] = []
    for page in (Path(page) for page in PAGES if (source / page).exists()):
        fill(page, (source / page).read_text("utf-8"))
    results = source / "results"
    # A search or a shorter run is shown after the main result, and never in its place.
    found = {
        name: [results / f"{name}.json", *sorted(path for path in results.glob(f"{name}-*.json") if _of(path) == name)]
        for name in SECTIONS
        if (results / f"{name}.json").exists()
    }
    pages = write_paper(SECTIONS, found, target / "docs", results="../results/", ours=True)
    fill(Path("docs/paper.md"), (target / "docs" / "paper.md").read_text("utf-8"))
    return list(dict.fromkeys([*written, *(page.relative_to(target) for page in pages)]))


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    for path in build(ROOT, ROOT):
        print(path)
