"""A search for a strength: the average accuracy against it, over one or several results of one short form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import matplotlib
from matplotlib.figure import Figure

from synaptic_intelligence.document import JSON, ResultError, exact
from synaptic_intelligence.drawing.style import SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.experiments.method import RIVALS
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import Estimate, Summary, summarize
from synaptic_intelligence.report.wording import method_name, numbers_shown, seeds_shown, warnings
from synaptic_intelligence.result import Result

_WIDTH, _HEADER, _PANEL, _AXIS = 9.0, 0.9, 2.6, 0.55  # inches
_LINES = {"si": ("#0072B2", "o", "synaptic intelligence"), "ewc": ("#CC79A7", "s", "EWC")}
_WITHOUT = "#D55E00"

WITHIN = 0.001
"""How far below the best accuracy of a search that of the strength that is taken may lie."""


def searched(results: Sequence[Result]) -> list[Summary]:
    """Return what was found with each strength, by method, the weakest first.

    Raises:
        ResultError: the results differ in more than in the methods that were run, or two of them have the same one.
    """
    estimated = {_fisher_images(result) for result in results} - {None}
    if any(_form(result) != _form(results[0]) for result in results) or len(estimated) > 1:
        raise ResultError("results of one search must have the same settings, but for their strengths and rivals")
    every = [summary for result in results for summary in summarize(result)]
    if len({(s.method, s.c) for s in every}) < len(every):
        raise ResultError("results of one search must have different strengths")
    return sorted(every, key=lambda s: (s.method != "si", s.method, s.c or 0.0))


def draw_search(results: Sequence[Result]) -> Figure:
    """Draw the average accuracy after the last task against the strength: a line for each method that has one.

    Points are means over the seeds, with 95 % intervals if there are several. The dashed line is without synapses.

    Raises:
        ResultError: as :func:`searched`.
    """
    found = searched(results)
    said = said_of_search(results)
    with matplotlib.rc_context(fname=STYLE):
        bottom = _AXIS + footer_height(said)
        height = _HEADER + _PANEL + bottom
        figure = Figure(figsize=(_WIDTH, height))
        ax = figure.add_axes((0.7 / _WIDTH, bottom / height, 1 - 0.85 / _WIDTH, _PANEL / height))
        for method, (color, marker, name) in _LINES.items():
            line = _line(found, method)
            if not line:
                continue
            means = [average.mean for average in line.values()]
            # One seed has no interval: a bar of no length would say that it has.
            bars = [math.nan if average.half_width is None else average.half_width for average in line.values()]
            drawn = None if all(map(math.isnan, bars)) else bars
            ax.errorbar([*line], means, drawn, color=color, marker=marker, label=name, zorder=3)
            for c, mean in zip(line, means, strict=True):
                ax.annotate(f"{mean:.3f}", (c, mean), (3, 6), "data", "offset points", ha="right", size=8, color=color)
        for s in found:
            if s.method == "si" and s.c == 0:
                ax.axhline(s.average.mean, color=_WITHOUT, linestyle="--", linewidth=1.2, label=method_name("si", 0.0))
                at = (0, s.average.mean)
                place = (at, (4, 3), ("axes fraction", "data"), "offset points")
                ax.annotate(f"{s.average.mean:.3f}", *place, size=8, color=_WITHOUT)
        shown = [s.average.mean for s in found]
        room = 0.12 * (max(shown) - min(shown)) or 0.05
        ax.set(xscale="log", xlabel="strength c", ylim=(min(shown) - room, max(shown) + 2 * room))
        ax.xaxis.set_major_formatter(lambda x, _: exact(x))  # as the tables have it; the usual one writes mathematics
        ax.set_ylabel("average accuracy", color=SOFT)
        inscribe(figure, f"{results[0].title}: search for a strength", numbers_shown(found), said)
        figure.legend(*ax.get_legend_handles_labels(), bbox_to_anchor=(1, 1 - 0.03 / height), ncols=3)
    return figure


def search_rows(results: Sequence[Result]) -> list[Row]:
    """Return the average accuracy on test images of every strength, and for each method the smallest that is good.

    A strength is good whose accuracy comes within ``WITHIN`` of the method's best.

    Raises:
        ResultError: as :func:`searched`.
    """
    found = searched(results)
    rows = []
    for s in found:
        shown = f"{s.average} ({seeds_shown(s.seeds)})"
        rows.append(Row(f"average accuracy, {method_name(s.method, s.c)}", "-", shown))
    for method, (_, _, name) in _LINES.items():
        line = _line(found, method)
        if len(line) > 1:
            best = max(line, key=lambda c: line[c].mean)
            at_the_end = ", and the best is the largest that was tried" if best == max(line) else ""
            what = f"smallest strength within {WITHIN} of the best, {name}{at_the_end}"
            rows.append(Row(what, "-", exact(smallest(found, method))))
    return rows


def smallest(found: Sequence[Summary], method: str) -> float:
    """Return the smallest strength of a method whose average accuracy comes within ``WITHIN`` of the method's best."""
    line = _line(found, method)
    best = max(average.mean for average in line.values())
    return min(c for c, average in line.items() if average.mean >= best - WITHIN)


def _line(found: Sequence[Summary], method: str) -> dict[float, Estimate]:
    return {s.c: s.average for s in found if s.method == method and s.c}


def said_of_search(results: Sequence[Result]) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    # One form has one protocol: results without EWC say less of it, and older ones may say it in other words.
    most = max(results, key=lambda result: (len(result.deviations), result.started)).deviations
    told = (text for result in results for text in warnings(replace(result, deviations=most)))
    return list(dict.fromkeys(told))


def _form(result: Result) -> dict[str, JSON]:
    """Return what must be the same; settings that are younger than a file were as their default is: False."""
    free = {"c", "rivals", "fisher_images", *RIVALS}  # how a rival is run is told of those too that were not
    names = {*Settings.__dataclass_fields__, *result.settings} - free
    where = {name: result.environment.get(name) for name in ("torch", "device")}
    return {**{name: result.settings.get(name, False) for name in names}, **where, "experiment": result.experiment}


def _fisher_images(result: Result) -> JSON:
    return result.settings.get("fisher_images") if any(run.method == "ewc" for run in result.runs) else None
