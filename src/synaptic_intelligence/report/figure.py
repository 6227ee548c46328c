"""The figure, in the form of the paper's figure 3: accuracy on each task as more tasks are learnt."""

from __future__ import annotations

import math
import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synaptic_intelligence.drawing.error_scale import set_error_scale
from synaptic_intelligence.drawing.style import FAINT, SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.report.color import color
from synaptic_intelligence.report.statistics import Estimate, Summary, summarize
from synaptic_intelligence.report.wording import method_name, numbers_shown, warnings
from synaptic_intelligence.result import Result

_MARKERS = "osD^vPXh"
_MOST_PANELS = 6  # of more tasks, the first alone gets a panel
_WIDTH, _HEADER, _AXIS = 9.0, 1.05, 0.5  # inches


def draw_figure(result: Result) -> Figure:
    """Draw accuracy against the number of tasks learnt: a panel for each task, and one for the average.

    Each line is one method: the mean over its complete runs, with 95 % intervals if there are several, cut a little
    beyond the accuracies that are possible. A method that learns all tasks at once is a level dashed line, its mean.
    The faint dashed line is chance. Of more than six tasks there are three panels: the first task, as what is kept;
    the newest, when it has just been learnt, as what can still be learnt, on a scale of its own; and the average. The
    scales are logarithmic in the error, as methods that forget little and one that forgets nearly all lie far apart by
    then.

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
        many = len(result.task_names) > _MOST_PANELS
        tasks = 1 if many else len(result.task_names)
        bottom = _AXIS + footer_height(warnings(result))
        names = [method_name(s.method, s.c) for s in summaries]
        # Beside the title if there is room, else below it, in as many lines of four as it takes.
        beside = len(names) <= 4 and len(result.title) + sum(len(name) + 7 for name in names) < 90
        legend, header = (0.03, _HEADER) if beside else (0.5, _HEADER + 0.26 * math.ceil(len(names) / 4))
        height = header + (2.6 if many or tasks == 1 else 2.0) + bottom
        figure = Figure(figsize=(_WIDTH, height))
        left, right, between = (0.66, _WIDTH - 0.45, 0.24) if many else (0.55, _WIDTH - 0.45, 0.14)
        figure.subplots_adjust(left / _WIDTH, bottom / height, right / _WIDTH, 1 - header / height, wspace=between)
        curves = [[s.curves[j] if s.curves else _level(s.final[j]) for s in summaries] for j in range(tasks)]
        panels = [(f"task {j}", result.task_names[j - 1], j, of_task) for j, of_task in enumerate(curves, 1)]
        panels.append(("average", "of the tasks learnt", 1, [s.average_curve or _level(s.average) for s in summaries]))
        if many:
            panels.insert(1, ("newest task", "just learnt; own scale", 1, [s.just_learnt for s in summaries]))
        figure.subplots(1, len(panels), sharex=True, sharey=not many)
        first, *_, average = figure.axes
        for ax, (title, subtitle, start, shown) in zip(figure.axes, panels, strict=True):
            _titles(ax, title, subtitle)
            _lines(ax, start, summaries, shown)
        if many:
            average.sharey(first)
            average.tick_params(labelleft=False)
            set_error_scale(figure.axes[1], *_range(panels[1][3], [] if any(panels[1][3]) else [result.chance]))
        _limits(first, result, [curve for *_, shown in panels for curve in shown], logarithmic=many)
        for ax in (first, average) if many else figure.axes:
            ax.axhline(result.chance, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
        _end_values(average, 10 / 72 / (height - header - bottom), summaries)
        first.set_ylabel("test accuracy (error: log scale)" if many else "test accuracy")
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
        if not curve:
            continue
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


def _level(estimate: Estimate) -> list[Estimate]:
    """Return what is drawn where there is no curve: a mean alone."""
    return [Estimate(estimate.mean, None)]


def _range(curves: list[list[Estimate]], levels: list[float]) -> tuple[float, float]:
    """Return the lowest and the highest accuracy of all intervals and levels, of those that are possible."""
    shown = [(estimate.mean, estimate.half_width or 0.0) for curve in curves for estimate in curve]
    low = min([*levels, *(mean - half_width for mean, half_width in shown)])
    high = max([*levels, *(mean + half_width for mean, half_width in shown)])
    return max(low, 0.0), min(high, 1.0)


def _limits(ax: Axes, result: Result, curves: list[list[Estimate]], *, logarithmic: bool) -> None:
    """Set the limits of ``ax``, and with them those of the panels that share its axes."""
    low, high = _range(curves, [result.chance])
    ax.set_xlim(0.6, len(result.task_names) + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    if logarithmic:
        set_error_scale(ax, low, high)
    else:
        ax.set_ylim(low - 0.07, 1.02)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ax.annotate("chance", (1, result.chance), (0, -2), "data", "offset points", va="top", size=7.5, color=FAINT)


def _end_values(ax: Axes, line: float, summaries: list[Summary]) -> None:
    """Write the last averages beside their points, apart by at least ``line``, a share of the panel's height."""
    shares = ax.transData + ax.transAxes.inverted()
    y = math.inf
    for s in sorted(summaries, key=lambda s: s.average.mean, reverse=True):
        y = min(float(shares.transform((1, s.average.mean))[1]), y - line)
        place = ((1, y), (4, 0), "axes fraction", "offset points")
        ax.annotate(f"{s.average.mean:.3f}", *place, color=color(s, summaries), size=8, weight=700, va="center")
