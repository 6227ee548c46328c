"""A line of the table in which what is expected and what we have stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

from rich import box
from rich.table import Table
from rich.text import Text

from synaptic_intelligence.paper.targets import TARGETS, Target
from synaptic_intelligence.report.statistics import mean_and_interval, summarize
from synaptic_intelligence.report.wording import method_name, seeds_shown
from synaptic_intelligence.result import Result

NOT_RUN = "not run"
"""What stands in the place of our number where there is none yet."""


@final
@dataclass(frozen=True)
class Row:
    """What is compared, what is expected, what we have, and how far apart these are (empty: that says nothing).

    Expected is a number or a claim of the paper, or what its equations say; "-" where there is neither.
    """

    what: str
    expected: str
    ours: str
    difference: str = ""


def accuracy_rows(result: Result, *, main: bool = True) -> list[Row]:
    """Return for each method the average accuracy over all tasks after the last one, on test and on training images.

    A shorter run, or one of other tasks, is not measured against the paper; one that begins its tasks as the authors'
    code does, is. What the paper has a number for, and was not run, has its row too in the main result of the protocol.
    """
    comparable = is_comparable(result)
    targets = TARGETS.get(result.experiment, {}) if comparable else {}
    rows = []
    for s in summarize(result):
        target = targets.get((s.method, s.c))
        seeds = seeds_shown(s.seeds)
        runs = [run for run in result.complete_runs if (run.method, run.c) == (s.method, s.c)]
        found = {"average accuracy": s.average}
        if all(run.final_train_accuracy for run in runs):
            found["on training images"] = mean_and_interval([fmean(run.final_train_accuracy) for run in runs])
        for what, average in found.items():
            of_these = target is not None and target.on_training_images == (what == "on training images")
            expected, difference = (str(target), _outside(target, average.mean)) if target and of_these else ("-", "")
            rows.append(Row(f"{what}, {method_name(s.method, s.c)}", expected, f"{average} ({seeds})", difference))
    done = {(s.method, s.c) for s in summarize(result)}
    missing = [(key, target) for key, target in targets.items() if key not in done and main and not result.deviations]
    return [*rows, *(Row(f"average accuracy, {method_name(*key)}", str(target), NOT_RUN) for key, target in missing)]


def is_comparable(result: Result) -> bool:
    """Whether a result may be measured against the paper's numbers: it is of the protocol, or counts on at most."""
    return not result.deviations or (len(result.deviations) == 1 and result.settings.get("keep_step_count") is True)


def paired_rows(result: Result, main: Result) -> list[Row]:
    """Return for each method how a result differs from the main one, seed by seed, where both have the seeds.

    Two runs are a pair if they have the same first task behind them: its accuracy is the same, to the last digit.
    """
    beside = {(run.seed, run.method, run.c): run.accuracy for run in main.complete_runs}
    rows = []
    for s in summarize(result):
        runs = [run for run in result.complete_runs if (run.method, run.c) == (s.method, s.c)]
        both = [(run.accuracy, beside[run.seed, s.method, s.c]) for run in runs if (run.seed, s.method, s.c) in beside]
        differences = [fmean(ours[-1]) - fmean(other[-1]) for ours, other in both if ours[0][0] == other[0][0]]
        what = f"average accuracy less the protocol's, seed by seed, {method_name(s.method, s.c)}"
        if differences:
            rows.append(Row(what, "-", f"{mean_and_interval(differences)} ({seeds_shown(len(differences))})"))
        elif both:
            rows.append(Row(what, "-", "no pairs: the first tasks differ"))
    return rows


def _outside(target: Target, ours: float) -> str:
    difference = target.difference(ours)
    return "inside" if difference == 0 and target.low < target.high else f"{difference:+z.3f}"


def row_table(title: str, rows: Sequence[Row], said: Sequence[str]) -> Table:
    """Return rows as a table for a terminal, followed by what must be said of them."""
    table = Table(title=Text(title, style="bold"), caption=Text("\n".join(said)), box=box.SIMPLE_HEAD, show_edge=False)
    table.title_justify = table.caption_justify = "left"
    for header in ("", "expected", "ours"):
        table.add_column(Text(header), justify="right" if header else "left")
    for row in rows:
        table.add_row(Text(row.what), Text(row.expected), Text(row.ours))
    return table


def markdown_rows(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown."""
    cells = [["", "expected", "ours", "outside by"], [":--", "--:", "--:", "--:"]]
    cells += [[row.what, row.expected, row.ours, row.difference] for row in rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in cells)
