"""The figure of the correlations between tasks, in the form of the paper's figure 5, and what is read from it."""

from __future__ import annotations

import textwrap
from statistics import fmean

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval
from synaptic_intelligence.report.style import STYLE, footer_height, inscribe
from synaptic_intelligence.report.wording import method_name, warnings
from synaptic_intelligence.result import Result, Run

_LAYERS = ("first layer", "second layer", "output layer")
_WIDTH, _HEADER, _PANEL = 9.0, 0.75, 2.45  # inches


def between_tasks(result: Result) -> dict[tuple[str, float | None], list[Estimate]]:
    """Return for each method the mean correlation of two different tasks' path integrals, layer by layer.

    A seed's number is the mean over all pairs of tasks; the estimate is over the seeds.
    """
    found = {}
    for method, runs in _runs(result).items():
        layers = list(runs[0].path_correlation)
        found[method] = [mean_and_interval([_mean_of_pairs(r.path_correlation[n]) for r in runs]) for n in layers]
    return found


def draw_correlations(result: Result) -> Figure:
    """Draw for each method (rows) and weight matrix (columns) how alike the tasks' path integrals are.

    Each square is the correlation, over all synapses of the layer, of two tasks' path integrals, as a mean over seeds.
    All panels share one scale, whose ends are the largest correlation of two different tasks.
    """
    with matplotlib.rc_context(fname=STYLE):
        methods, pairs = _runs(result), between_tasks(result)
        rows = max(len(methods), 1)
        bottom = 0.45 + footer_height(warnings(result))
        height = _HEADER + _PANEL * rows + bottom
        figure = Figure(figsize=(_WIDTH, height))
        squares = {
            key: [_mean_square(runs, name) for name in runs[0].path_correlation] for key, runs in methods.items()
        }
        off = [abs(s[i, j]) for found in squares.values() for s in found for i in range(len(s)) for j in range(i)]
        most = max(off, default=1.0)
        image = None
        for row, (key, found) in enumerate(squares.items()):
            for column, square in enumerate(found):
                x, y = 1.55 + column * 2.2, bottom + (rows - 1 - row) * _PANEL + 0.25
                ax = figure.add_axes((x / _WIDTH, y / height, 1.85 / _WIDTH, 1.85 / height))
                extent = (0.5, len(square) + 0.5, len(square) + 0.5, 0.5)
                image = ax.imshow(square, cmap="RdBu_r", vmin=-most, vmax=most, extent=extent)
                ax.grid(visible=False)
                ax.spines[:].set_visible(False)
                layer = (
                    _LAYERS[column] if len(found) == len(_LAYERS) else list(methods[key][0].path_correlation)[column]
                )
                ax.set_title(f"{layer}: {pairs[key][column].mean:z.3f}", pad=5, size=9)
                ticks = [1, *range(5, len(square) + 1, 5)] if len(square) > 5 else range(1, len(square) + 1)
                ax.set_xticks(ticks)
                ax.set_yticks(ticks)
                if column == 0:
                    ax.set_ylabel("task")
                    name = textwrap.fill(method_name(*key), 12)
                    figure.text(0.12 / _WIDTH, (y + 0.92) / height, name, va="center", size=9, weight="bold")
                if row == rows - 1:
                    ax.set_xlabel("task")
        if image is not None:
            bar = figure.add_axes((8.25 / _WIDTH, (bottom + 0.25) / height, 0.12 / _WIDTH, 1.85 / height))
            figure.colorbar(image, cax=bar, extend="max").outline.set_visible(False)
            bar.tick_params(labelsize=8)
        told = "How alike the path integrals of two tasks are; above each panel the mean over all pairs of tasks."
        told = told if methods else "No run whose paths were compared is complete."
        inscribe(figure, f"{result.title}: correlations between tasks", told, warnings(result))
    return figure


def _runs(result: Result) -> dict[tuple[str, float | None], list[Run]]:
    found: dict[tuple[str, float | None], list[Run]] = {}
    for run in sorted(result.complete_runs, key=lambda run: run.c or 0.0):
        if run.path_correlation:
            found.setdefault((run.method, run.c), []).append(run)
    return found


def _mean_of_pairs(rows: list[list[float]]) -> float:
    return fmean([value for i, row in enumerate(rows) for value in row[:i]] or [0.0])


def _mean_square(runs: list[Run], name: str) -> np.ndarray:
    count = len(runs[0].path_correlation[name])
    square = np.ones((count, count))
    for i in range(count):
        for j in range(i):
            square[i, j] = square[j, i] = fmean(run.path_correlation[name][i][j] for run in runs)
    return square


def correlation_rows(result: Result) -> list[Row]:
    """Return the mean correlation between tasks of each layer and method, and whether consolidation lowers it."""
    found = between_tasks(result)
    rows = []
    without = found.get(("si", 0.0))
    for key, layers in found.items():
        names = _LAYERS if len(layers) == len(_LAYERS) else [f"layer {i}" for i in range(1, len(layers) + 1)]
        for i, (name, estimate) in enumerate(zip(names, layers, strict=True)):
            change = estimate.mean - without[i].mean if without is not None and key[1] else None
            told = "" if change is None else f" ({change:+z.3f} to c = 0)"
            # A claim about two numbers needs both of them.
            claim = "lower than without" if change is not None and i == 1 else "-"
            seeds = len(_runs(result)[key])
            counted = f"({seeds} seed{'s'[: seeds != 1]})"
            rows.append(Row(f"{name}, {method_name(*key)}", claim, f"{estimate}{told} {counted}"))
    return rows
