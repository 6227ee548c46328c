"""The figure of the correlations between tasks, in the form of the paper's figure 5."""

from __future__ import annotations

import textwrap
from statistics import fmean

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.style import SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.paper.correlations import between_tasks, layer_names, runs_compared
from synaptic_intelligence.report.wording import method_name, warnings
from synaptic_intelligence.result import Result, Run

_WIDTH, _HEADER, _PANEL = 9.0, 0.75, 2.45  # inches


def draw_correlations(result: Result) -> Figure:
    """Draw for each method (rows) and weight matrix (columns) how alike the tasks' path integrals are.

    Each square is the correlation, over all synapses of the layer, of two tasks' path integrals, as a mean over seeds.
    All panels share one scale, whose ends are the largest correlation of two different tasks.
    """
    with matplotlib.rc_context(fname=STYLE):
        methods, pairs = runs_compared(result), between_tasks(result)
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
                ax.set_title(f"{layer_names(len(found))[column]}: {pairs[key][column].mean:z.3f}", pad=5, size=9)
                ticks = [1, *range(5, len(square) + 1, 5)] if len(square) > 5 else range(1, len(square) + 1)
                ax.set_xticks(ticks)
                ax.set_yticks(ticks)
                if column == 0:
                    ax.set_ylabel("task")
                    name = textwrap.fill(method_name(*key).replace(" = ", "\u00a0=\u00a0"), 12)
                    figure.text(0.12 / _WIDTH, (y + 0.92) / height, name, va="center", size=9, weight="bold")
                if row == rows - 1:
                    ax.set_xlabel("task")
        if image is not None:
            bar = figure.add_axes((8.25 / _WIDTH, (bottom + 0.25) / height, 0.12 / _WIDTH, 1.85 / height))
            figure.colorbar(image, cax=bar, extend="max").outline.set_visible(False)
            bar.set_title("correlation", size=8, loc="right", pad=6, weight="normal", color=SOFT)
            bar.tick_params(labelsize=8)
        seeds = " or ".join(map(str, sorted({len(runs) for runs in methods.values()})))
        told = (
            "How alike the path integrals of two tasks are; above each panel the mean over all pairs of tasks, over "
            f"{seeds} seed{'s'[: seeds != '1']}."
        )
        told = told if methods else "No run whose paths were compared is complete."
        inscribe(figure, f"{result.title}: correlations between tasks", told, warnings(result))
    return figure


def _mean_square(runs: list[Run], name: str) -> np.ndarray:
    count = len(runs[0].path_correlation[name])
    square = np.ones((count, count))
    for i in range(count):
        for j in range(i):
            square[i, j] = square[j, i] = fmean(run.path_correlation[name][i][j] for run in runs)
    return square
