"""The figure, in the form of the paper's figure 3: accuracy on each task as more tasks are learnt."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.report.statistics import Estimate, Summary, summarize
from synaptic_intelligence.report.wording import numbers_shown, strength, warnings
from synaptic_intelligence.result import Result

_STYLE = Path(__file__).with_name("figure.mplstyle")
# Okabe and Ito's colours: vermilion without synapses, and from sky blue over blue to near black with them.
_WITHOUT = "#D55E00"
_WITH = LinearSegmentedColormap.from_list("synapses", ["#56B4E9", "#0072B2", "#002B45"])
_WARNING, _SOFT, _FAINT = "#A33B00", "#555555", "#767676"
_MARKERS = "osD^vP*X"
_MOST_PANELS = 6  # of more tasks, the first alone gets a panel
_WIDTH, _HEADER, _AXIS, _LINE = 9.0, 1.05, 0.5, 0.19  # inches; the last is the height of a line of text


def draw_figure(result: Result) -> Figure:
    """Draw accuracy against the number of tasks learnt: a panel for each task, and one for the average.

    Each line is one strength: the mean over its complete runs, with 95 % intervals if there are several; an interval
    that leaves the panel is cut. The dashed line is chance. Of more than six tasks only the first and the average are
    drawn.

    Example:
        >>> figure = draw_figure(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1", "2 or 3"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5))
        >>> len(figure.axes)
        3
    """
    with matplotlib.rc_context(fname=_STYLE):
        summaries = summarize(result)
        tasks = len(result.task_names) if len(result.task_names) <= _MOST_PANELS else 1
        footer = [line for text in warnings(result) for line in textwrap.wrap(text, 112)]
        bottom = _AXIS + _LINE * len(footer)
        height = _HEADER + (2.0 if tasks > 1 else 2.6) + bottom
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(0.55 / _WIDTH, bottom / height, 1 - 0.45 / _WIDTH, 1 - _HEADER / height, wspace=0.14)
        *panels, average = figure.subplots(1, tasks + 1, sharex=True, sharey=True)
        for j, ax in enumerate(panels):
            _titles(ax, f"task {j + 1}", result.task_names[j])
            _lines(ax, j + 1, {s.c: s.curves[j] for s in summaries})
        _titles(average, "average", "of the tasks learnt")
        _lines(average, 1, {s.c: s.average_curve for s in summaries})
        _limits(figure.axes, result, [curve for s in summaries for curve in [*s.curves[:tasks], s.average_curve]])
        _end_values(average, 10 / 72 / (height - _HEADER - bottom), summaries)
        figure.axes[0].set_ylabel("test accuracy")
        figure.supxlabel("tasks learnt", y=(bottom - _AXIS + 0.06) / height, va="bottom", size=9)
        left = 0.12 / _WIDTH
        figure.text(left, 1 - 0.1 / height, result.title, va="top", size=12, weight="bold")
        figure.text(left, 1 - 0.38 / height, numbers_shown(summaries), va="top", size=8.5, color=_SOFT)
        figure.text(left, 0.06 / height, "\n".join(footer), size=8.5, color=_WARNING, weight="bold", linespacing=1.35)
        figure.legend(*average.get_legend_handles_labels(), bbox_to_anchor=(1, 1 - 0.03 / height), ncols=4)
    return figure


def _titles(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title)
    shown = textwrap.shorten(subtitle, 22, placeholder=" …")
    ax.annotate(shown, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", size=8.5, color=_SOFT)


def _lines(ax: Axes, first: int, curves: dict[float, list[Estimate]]) -> None:
    for i, (c, curve) in enumerate(curves.items()):
        # Side by side, so that equal points (the first task does not depend on c) are all seen.
        aside = (i - (len(curves) - 1) / 2) * min(0.16, 0.4 / len(curves))
        x = [first + aside + k for k in range(len(curve))]
        intervals = [estimate.half_width for estimate in curve if estimate.half_width is not None]
        means = [estimate.mean for estimate in curve]
        color, marker = _color(c, curves), _MARKERS[i % len(_MARKERS)]
        ax.errorbar(x, means, intervals or None, zorder=3, color=color, marker=marker, label=strength(c))


def _color(c: float, strengths: Iterable[float]) -> str:
    with_synapses = [other for other in strengths if other > 0]
    return to_hex(_WITH((with_synapses.index(c) + 1) / (len(with_synapses) + 1))) if c > 0 else _WITHOUT


def _limits(axes: list[Axes], result: Result, curves: list[list[Estimate]]) -> None:
    lowest = min([result.chance, *(estimate.mean for curve in curves for estimate in curve)])
    for ax in axes:
        ax.axhline(result.chance, color=_FAINT, linewidth=0.9, linestyle="--", zorder=1)
    # The axes are shared: what is set for one panel holds for all.
    axes[0].set(xlim=(0.6, len(result.task_names) + 0.4), ylim=(lowest - 0.07, 1.02))
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes[0].yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes[0].annotate("chance", (1, result.chance), (0, -2), "data", "offset points", va="top", size=7.5, color=_FAINT)


def _end_values(ax: Axes, line: float, summaries: list[Summary]) -> None:
    """Write the last averages beside their points, apart by at least ``line``, a share of the panel's height."""
    low, high = ax.get_ylim()
    y = math.inf
    for mean, c in sorted([(s.average_curve[-1].mean, s.c) for s in summaries], reverse=True):
        y = min(mean, y - line * (high - low))
        color, end = _color(c, [s.c for s in summaries]), (len(summaries[0].curves), y)
        ax.annotate(f"{mean:.3f}", end, (10, 0), "data", "offset points", color=color, size=8, weight=700, va="center")


def svg_text(figure: Figure) -> str:
    """Return the figure as the text of an SVG file, the same for the same figure."""
    text = io.StringIO()
    with matplotlib.rc_context(fname=_STYLE):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    return text.getvalue()


def save_figure(result: Result, folder: Path, name: str = "figure") -> tuple[Path, Path]:
    """Draw the figure into ``folder`` as PNG (1800 pixels wide) and SVG, and return the two paths.

    Raises:
        OSError: the folder does not exist, is read-only or is full; the files that were there stay.

    Example:
        >>> import tempfile
        >>> png, svg = save_figure(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5), Path(tempfile.mkdtemp()))
        >>> png.name, svg.name
        ('figure.png', 'figure.svg')
    """
    figure = draw_figure(result)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with replacing(png) as temporary, matplotlib.rc_context(fname=_STYLE):
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
    with replacing(svg) as temporary:
        temporary.write_text(svg_text(figure), "utf-8")
    return png, svg
