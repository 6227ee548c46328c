"""The table and the figure of benchmarks/choosing_c.py: suggest_c beside a grid of strengths."""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from synaptic_intelligence.drawing.style import FAINT, STYLE, footer_height, inscribe
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval

CLOSE = 0.01
"""How near to the best of the grid a suggestion should be, in accuracy."""

_GRID, _SUGGESTED, _WITHOUT = "#0072B2", "#E69F00", "#D55E00"

Row = dict[str, Any]


def choosing_table(file: Path) -> str:
    """Return the link to the figure, what was suggested for each stream, what it gave, and the best of the grid."""
    found = json.loads(file.read_text("utf-8"))
    lines = [
        f"![Accuracy for each strength, and for the suggested one](docs/figures/{file.stem}.svg)",
        "",
        "| | seeds | c = 0 | suggested c | accuracy with it | best c of the grid | accuracy with it | difference |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    close = 0
    streams = _streams(found["rows"])
    for rows in streams:
        suggested, best, difference = shares(rows)
        close += difference.mean >= -CLOSE
        strengths = [row["suggested"] for row in rows]
        cells = [
            _name(rows),
            str(len(rows)),
            f"{fmean(accuracy(row, 0.0) for row in rows):.3f}",
            _between(strengths),
            f"{suggested:.3f}",
            f"{best[0]:g}",
            f"{best[1]:.3f}",
            signed(difference),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Average accuracy on test images after the last task, means over the seeds; the difference is that of each "
        "seed, with its 95 % interval (Student's t) where there are several. In the mean the suggestion is "
        f"within {CLOSE:g} of the best of the grid on {close} of {len(streams)} streams. The grid is {_grid(found)}, "
        "for all of them; its best is picked by the test images, which favours it.",
        "",
        *_bands(streams),
        "",
        *_charges(found["charges"]),
        "",
        f"`{found['command']}`: [`{file.name}`](results/{file.name}).",
        "",
    ]
    return "\n".join(lines)


def _bands(streams: list[list[Row]]) -> list[str]:
    """Return for which strengths of the grid the mean accuracy is as close to the best as the suggestion should be."""
    told = []
    for rows in streams:
        _, best, _ = shares(rows)
        close = [c for c in _grid_of(rows) if fmean(accuracy(row, c) for row in rows) >= best[1] - CLOSE]
        told.append(f"{_title(rows)}: {', '.join(f'{c:g}' for c in close)}")
    return [f"Within {CLOSE:g} of its best the grid has these strengths, in the mean. {'; '.join(told)}."]


def _charges(rows: list[Row]) -> list[str]:
    """Return the table of what the suggested strength charges for the second task, and what that has cost the first."""
    lines = [
        "| the second task of | learnt without pull: first loss rises by | the suggested strength charges | "
        "learnt with it: first loss rises by | it charges |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for stream in _streams(rows):
        runs = [[row["runs"][i][what] for row in stream] for i in (0, 1) for what in ("rise", "charged")]
        lines.append(f"| {_title(stream)} | {' | '.join(_between(figures, '.2g') for figures in runs)} |")
    return [*lines, "", "In nats, of the first task's training images; the lowest and the highest of the seeds."]


def accuracy(row: Row, c: float) -> float:
    """Return the average accuracy over all tasks at the end, for one strength."""
    return fmean(next(run["accuracy"] for run in row["runs"] if run["c"] == c))


def shares(rows: list[Row]) -> tuple[float, tuple[float, float], Estimate]:
    """Return the mean accuracy with the suggestion, the best of the grid with its own, and the difference, by seed."""
    suggested = fmean(accuracy(row, row["suggested"]) for row in rows)
    best = max(((c, fmean(accuracy(row, c) for row in rows)) for c in _grid_of(rows)), key=lambda each: each[1])
    return (
        suggested,
        best,
        mean_and_interval([accuracy(row, row["suggested"]) - accuracy(row, best[0]) for row in rows]),
    )


def signed(difference: Estimate) -> str:
    """Return a difference with its sign, and its interval where there is one."""
    return f"{difference.mean:+.3f}" + ("" if difference.half_width is None else f" ± {difference.half_width:.3f}")


def draw_choosing(found: dict[str, Any]) -> Figure:
    """Draw the accuracy over the strength, one panel for each stream, with the suggested strengths."""
    streams = _streams(found["rows"])
    said = [f"{_title(rows)}: {rows[0]['short']} (not the paper's protocol)" for rows in streams if rows[0]["short"]]
    footer = footer_height(said)
    width, height = 9.0, 4.1 + footer
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(width, height))
        told = "Average accuracy at the end, over the strength of the pull; the mean over seeds where there are several"
        inscribe(figure, "A strength without a search", told, said)
        share = (width - 0.7) / len(streams) / width
        for i, rows in enumerate(streams):
            box = (0.6 / width + i * share, (footer + 0.85) / height, share - 0.45 / width, 2.2 / height)
            _draw(figure.add_axes(box), rows)
        figure.legend(*_handles(figure), loc="lower center", ncols=3, bbox_to_anchor=(0.5, (footer + 0.02) / height))
    return figure


def _draw(axes: Axes, rows: list[Row]) -> None:
    strengths = _grid_of(rows)
    means = [fmean(accuracy(row, c) for row in rows) for c in strengths]
    axes.plot(strengths, means, color=_GRID, marker="o", markersize=4, label="each strength of the grid")
    nothing = fmean(accuracy(row, 0.0) for row in rows)
    axes.axhline(nothing, color=_WITHOUT, linestyle=":", label="without pull (c = 0)")
    axes.plot(
        [row["suggested"] for row in rows],
        [accuracy(row, row["suggested"]) for row in rows],
        color=_SUGGESTED,
        linestyle="none",
        marker="*",
        markersize=13,
        markeredgecolor="white",
        label="suggest_c, each seed",
        zorder=3,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(strengths[::2]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda strength, _: f"{strength:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(_title(rows), fontsize=9.5, loc="left")
    axes.set_xlabel("strength c")
    axes.grid(axis="y", color=FAINT, alpha=0.25)


def _handles(figure: Figure) -> Any:
    return figure.axes[0].get_legend_handles_labels()


def _streams(rows: list[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row["stream"])]


def _title(rows: list[Row]) -> str:
    return EXPERIMENTS[rows[0]["stream"]].title


def _name(rows: list[Row]) -> str:
    return f"{_title(rows)}, {rows[0]['short'] or 'as the paper has it'}"


def _grid_of(rows: list[Row]) -> list[float]:
    return sorted(run["c"] for run in rows[0]["runs"] if run["c"] not in (0.0, rows[0]["suggested"]))


def _between(figures: list[float], digits: str = ".3g") -> str:
    low, high = (f"{figure:{digits}}" for figure in (min(figures), max(figures)))
    return low if low == high else f"{low} to {high}"


def _grid(found: dict[str, Any]) -> str:
    low, high, count = min(found["grid"]), max(found["grid"]), len(found["grid"])
    factor = 10 ** (math.log10(high / low) / (count - 1))
    return f"{count} strengths from {low:g} to {high:g}, a factor of {factor:g} apart"
