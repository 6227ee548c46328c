"""The figure, in the form of the paper's figure 3: accuracy on each task as more tasks are learnt."""

from __future__ import annotations

import math
import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synaptic_intelligence.report.statistics import Estimate, Summary, summarize
from synaptic_intelligence.report.style import FAINT, SOFT, STYLE, color, footer_height, inscribe
from synaptic_intelligence.report.wording import method_name, numbers_shown, warnings
from synaptic_intelligence.result import Result

_MARKERS = "osD^vP*X"
_MOST_PANELS = 6  # of more tasks, the first alone gets a panel
_WIDTH, _HEADER, _AXIS = 9.0, 1.05, 0.5  # inches


def draw_figure(result: Result) -> Figure:
    """Draw accuracy against the number of tasks learnt: a panel for each task, and one for the average.

    Each line is one method: the mean over its complete runs, with 95 % intervals if there are several; an interval
    that leaves the panel is cut. A method that learns all tasks at once is a level dashed line. The faint dashed line
    is chance. Of more than six tasks only the first and the average are drawn.

    Example:
        >>> figure = draw_figure(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1", "2 or 3"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5))
        >>> len(figure.axes)
        3
    """
    with matplotlib.rc_context(fname=STYLE):
        summaries = summarize(result)
        tasks = len(result.task_names) if len(result.task_names) <= _MOST_PANELS else 1
        bottom = _AXIS + footer_height(warnings(result))
        names = [method_name(s.method, s.c) for s in summaries]
        # Beside the title if there is room, else below it, in as many lines of four as it takes.
        beside = len(names) <= 4 and len(result.title) + sum(len(name) + 7 for name in names) < 90
        legend, header = (0.03, _HEADER) if beside else (0.5, _HEADER + 0.26 * math.ceil(len(names) / 4))
        height = header + (2.0 if tasks > 1 else 2.6) + bottom
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(0.55 / _WIDTH, bottom / height, 1 - 0.45 / _WIDTH, 1 - header / height, wspace=0.14)
        *panels, average = figure.subplots(1, tasks + 1, sharex=True, sharey=True)
        for j, ax in enumerate(panels):
            _titles(ax, f"task {j + 1}", result.task_names[j])
            _lines(ax, j + 1, summaries, [s.curves[j] if s.curves else [s.final[j]] for s in summaries])
        _titles(average, "average", "of the tasks learnt")
        _lines(average, 1, summaries, [s.average_curve or [s.average] for s in summaries])
        shown = [curve for s in summaries for curve in [*s.curves[:tasks], s.average_curve, [s.average]]]
        _limits(figure.axes, result, [*shown, *(s.final[:tasks] for s in summaries if not s.curves)])
        _end_values(average, 10 / 72 / (height - header - bottom), summaries)
        figure.axes[0].set_ylabel("test accuracy")
        figure.supxlabel("tasks learnt", y=(bottom - _AXIS + 0.06) / height, va="bottom", size=9)
        inscribe(figure, result.title, numbers_shown(summaries), warnings(result))
        # By name, as matplotlib has level lines first.
        handles = dict(zip(*reversed(average.get_legend_handles_labels()), strict=True))
        figure.legend([handles[name] for name in names], names, bbox_to_anchor=(1, 1 - legend / height), ncols=4)
    return figure


def _titles(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title)
    shown = textwrap.shorten(subtitle, 22, placeholder=" …")
    ax.annotate(shown, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", size=8.5, color=SOFT)


def _lines(ax: Axes, first: int, summaries: list[Summary], curves: list[list[Estimate]]) -> None:
    for i, (summary, curve) in enumerate(zip(summaries, curves, strict=True)):
        shown, name = color(summary, summaries), method_name(summary.method, summary.c)
        if not summary.curves:
            ax.axhline(curve[0].mean, color=shown, linestyle="--", linewidth=1.2, zorder=2, label=name)
            continue
        # Side by side, so that equal points (the first task does not depend on c) are all seen.
        aside = (i - (len(curves) - 1) / 2) * min(0.16, 0.4 / len(curves))
        x = [first + aside + k for k in range(len(curve))]
        intervals = [estimate.half_width for estimate in curve if estimate.half_width is not None]
        means = [estimate.mean for estimate in curve]
        marker = _MARKERS[i % len(_MARKERS)]
        ax.errorbar(x, means, intervals or None, zorder=3, color=shown, marker=marker, label=name)


def _limits(axes: list[Axes], result: Result, curves: list[list[Estimate]]) -> None:
    lowest = min([result.chance, *(estimate.mean for curve in curves for estimate in curve)])
    for ax in axes:
        ax.axhline(result.chance, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
    # The axes are shared: what is set for one panel holds for all.
    axes[0].set(xlim=(0.6, len(result.task_names) + 0.4), ylim=(lowest - 0.07, 1.02))
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes[0].yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes[0].annotate("chance", (1, result.chance), (0, -2), "data", "offset points", va="top", size=7.5, color=FAINT)


def _end_values(ax: Axes, line: float, summaries: list[Summary]) -> None:
    """Write the last averages beside their points, apart by at least ``line``, a share of the panel's height."""
    low, high = ax.get_ylim()
    y = math.inf
    for s in sorted(summaries, key=lambda s: s.average.mean, reverse=True):
        y = min(s.average.mean, y - line * (high - low))
        shown, end = color(s, summaries), (len(s.final), y)
        place = (end, (10, 0), "data", "offset points")
        ax.annotate(f"{s.average.mean:.3f}", *place, color=shown, size=8, weight=700, va="center")
