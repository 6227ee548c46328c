"""The figure of benchmarks/step_overhead.py: how much longer a step takes with synapses."""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from synaptic_intelligence.drawing.style import FAINT, STYLE, inscribe

_COLORS = {"inside": "#0072B2", "hooks": "#56B4E9", "naive": "#D55E00"}
_LABELS = {
    "inside": "synapses inside the optimizer (si.optim.Adam)",
    "hooks": "synapses around it (SynapticIntelligence)",
    "naive": "written as a loop with clones and a penalty",
}
_WIDTH, _ROW, _HEADER, _AXIS = 9.0, 0.62, 1.15, 0.5  # inches
_TICKS = (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)


def overhead(row: dict[str, Any], part: str, form: str) -> list[float]:
    """Return lower quartile, median and upper quartile of a form's time over that of plain training.

    Args:
        row: of one workload, from the file.
        part: ``step`` for the optimizer's step alone, ``training`` for a whole step.
        form: ``inside``, ``hooks`` or ``naive``, or the first two ``, first task``.
    """
    times = row["seconds"][part]
    over = [ours / plain for ours, plain in zip(times[form], times["plain"], strict=True)]
    return statistics.quantiles(over, n=4, method="inclusive")


# Numbers per parameter that a step of Adam reads and writes.
MOVED = {"plain": 7.0, "inside, first task": 9.0, "inside": 11.0, "inside, bfloat16": 10.5, "hooks": 18.0}

LEAST_OF_TRIAD = {"inside": 0.85}
"""What the project set out to reach."""

# At most so much, over plain training: what the project set out to reach, before it measured.
TARGETS: dict[str, dict[str, dict[str, float]]] = {
    "step": {"inside, first task": {"": 1.45}, "inside": {"": 1.7}, "hooks": {"": 3.3}},
    "training": {
        "inside": {"MLP-256": 1.15, "MLP-2000": 1.05, "ResNet-18": 1.02, "GPT 26 M": 1.10},
        "hooks": {"MLP-256": 1.4, "MLP-2000": 1.15, "ResNet-18": 1.05, "GPT 26 M": 1.25},
    },
}


def target(workload: str, part: str, form: str) -> float | None:
    """Return the target for a workload; None where there is none."""
    found = TARGETS[part].get(form, {})
    return next((value for name, value in found.items() if workload.startswith(name)), None)


def over_triad(row: dict[str, Any], form: str) -> float:
    """Return the bytes per second of a form's optimizer step over those of the triad, the median of the rounds."""
    moved = 4 * MOVED[form] * row["parameters"]
    triads, times = row["seconds"]["triad"]["bytes_per_second"], row["seconds"]["step"][form]
    return float(statistics.median(moved / seconds / triad for seconds, triad in zip(times, triads, strict=True)))


def peak(row: dict[str, Any], form: str) -> float:
    """Return how far a form's peak of memory lies above plain training's, in multiples of the parameters' bytes."""
    peaks = row["peak_bytes"]
    return float((peaks[form] - peaks["plain"]) / (4 * row["parameters"]))


def draw_overhead(found: dict[str, Any]) -> Figure:
    """Draw the medians, with quartiles, of all workloads: the optimizer's step, and a whole step of training."""
    with matplotlib.rc_context(fname=STYLE):
        rows = found["rows"]
        height = _HEADER + _ROW * len(rows) + _AXIS
        figure = Figure(figsize=(_WIDTH, height))
        panels = {"training": ("a whole step of training", 1.75, 3.2), "step": ("the optimizer's step alone", 5.3, 3.4)}
        for part, (title, left, wide) in panels.items():
            ax = figure.add_axes((left / _WIDTH, _AXIS / height, wide / _WIDTH, _ROW * len(rows) / height))
            _panel(ax, rows, part)
            ax.set_title(title, loc="left", size=9)
            ax.tick_params(labelleft=part == "training")
        environment = found["environment"]
        where = environment["device_name"]
        told = f"Time with synapses over time without, from the second task on. {where}, torch {environment['torch']}."
        inscribe(figure, "What synapses cost", told, [])
        handles = [figure.axes[0].plot([], [], "o", color=_COLORS[form], ms=5)[0] for form in _COLORS]
        figure.legend(
            handles, list(_LABELS.values()), loc="upper left", bbox_to_anchor=(0, 1 - 0.5 / height), ncols=3, fontsize=8
        )
    return figure


def _panel(ax: Axes, rows: list[dict[str, Any]], part: str) -> None:
    most = 1.0
    for place, row in enumerate(rows):
        for i, form in enumerate(_COLORS):
            low, middle, high = overhead(row, part, form)
            y = place + 0.22 * (i - 1)
            ax.plot([low, high], [y, y], color=_COLORS[form], lw=2.4, alpha=0.45, solid_capstyle="round")
            ax.plot(middle, y, "o", color=_COLORS[form], ms=5)
            ax.annotate(f"{middle:.2f}", (high, y), (6, 0), "data", "offset points", size=7, va="center", color=FAINT)
            most = max(most, high)
    ax.axvline(1, color=FAINT, lw=0.9)
    ax.set_xscale("log")
    ax.set(ylim=(len(rows) - 0.45, -0.55), xlim=(0.93, 1.35 * most))
    ax.set_yticks(range(len(rows)), [row["workload"].replace(", ", "\n") for row in rows], size=8)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if tick < 1.35 * most]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
