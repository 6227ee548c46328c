"""The figure of the importance measures: how alike they are, and omega against each of the others."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval
from synaptic_intelligence.report.style import STYLE, footer_height, inscribe
from synaptic_intelligence.report.wording import study_warnings

_WIDTH, _HEIGHT = 9.0, 5.6  # inches


def rank_correlations(findings: Findings, layer: str) -> dict[tuple[str, str], Estimate]:
    """Return Spearman's correlation of every two measures in a layer, over the seeds."""
    numbers: Any = findings.numbers
    measures, matrices = numbers["measures"], numbers["spearman"][layer]
    return {
        (a, b): mean_and_interval([matrix[i][j] for matrix in matrices])
        for i, a in enumerate(measures)
        for j, b in enumerate(measures)
    }


def draw_measures(findings: Findings) -> Figure:
    """Draw the matrix of rank correlations over all weights, and omega of some weights against each other measure."""
    with matplotlib.rc_context(fname=STYLE):
        numbers: Any = findings.numbers
        measures, scatter = numbers["measures"], numbers["scatter"]
        found = rank_correlations(findings, "all weights")
        bottom = footer_height(study_warnings(findings))
        height = _HEIGHT + bottom
        figure = Figure(figsize=(_WIDTH, height))
        ax = figure.add_axes((1.0 / _WIDTH, (bottom + 0.9) / height, 3.6 / _WIDTH, 3.6 / height))
        square = np.array([[found[a, b].mean for b in measures] for a in measures])
        ax.imshow(square, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_xticks(range(len(measures)), measures, rotation=35, ha="right")
        ax.set_yticks(range(len(measures)), measures)
        for i, j in np.ndindex(square.shape):
            dark = abs(square[i, j]) > 0.6
            ax.text(j, i, f"{square[i, j]:z.2f}", ha="center", va="center", color="white" if dark else "#222222")
        ax.set_title("rank correlation, all weights", pad=6)
        others = [measure for measure in measures if measure != "omega"]
        omega = np.array(scatter["omega"])
        for k, measure in enumerate(others):
            x, y = 5.25 + 1.9 * (k % 2), bottom + 3.55 - 1.5 * (k // 2)
            panel = figure.add_axes((x / _WIDTH, y / height, 1.45 / _WIDTH, 0.95 / height))
            values = np.array(scatter[measure])
            shown = (omega > 0) & (values > 0)
            panel.loglog(values[shown], omega[shown], "o", ms=2, mew=0, alpha=0.5, color="#0072B2")
            panel.set_title(measure, pad=3, size=9)
            panel.tick_params(labelsize=7)
            panel.minorticks_off()
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(LogLocator(numticks=3))
                axis.set_major_formatter(StrMethodFormatter("{x:.0e}"))
            if k % 2 == 0:
                panel.set_ylabel("omega", size=8)
        reached = fmean(numbers["test_accuracy"])
        seeds = len(numbers["test_accuracy"])
        told = (
            f"A network that has learnt MNIST (test accuracy {reached:.3f}); mean over {seeds} seed{'s'[: seeds != 1]}."
            f" Right: {len(omega)} weights of one seed, those above zero."
        )
        inscribe(figure, findings.title, told, study_warnings(findings))
    return figure


def measure_rows(findings: Findings) -> list[Row]:
    """Return how alike path, omega and each other measure are, and the check of Hessian against Fisher information."""
    numbers: Any = findings.numbers
    found = rank_correlations(findings, "all weights")
    rows = [
        Row(f"rank correlation of {a} and {b}", "-", str(estimate))
        for (a, b), estimate in found.items()
        if a in ("omega", "path") and b not in ("omega", a)
    ]
    worst = max(numbers["fisher_against_hessian"])
    return [
        *rows,
        Row("Fisher information against Hessian, largest difference over largest value", "0", f"{worst:.1e}"),
    ]
