"""The figure of the importance measures: how alike they are, and omega against each of the others."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from numpy.typing import NDArray

from synaptic_intelligence.drawing.style import STYLE, footer_height, inscribe
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval
from synaptic_intelligence.report.wording import seeds_shown, study_warnings

_ALL = "all weights"
_LAYERS = {"0.weight": "first layer", "2.weight": "second layer", "4.weight": "output layer"}
_WIDTH, _HEADER, _SQUARE, _GAP, _STRIP, _AXIS = 9.0, 0.9, 3.6, 0.4, 1.55, 0.75  # inches


def rank_correlations(findings: Findings, layer: str, kind: str = "spearman") -> dict[tuple[str, str], Estimate]:
    """Return Spearman's correlation of every two measures in a layer, over the seeds."""
    numbers: Any = findings.numbers
    measures, matrices = numbers["measures"], numbers[kind][layer]
    return {
        (a, b): mean_and_interval([matrix[i][j] for matrix in matrices])
        for i, a in enumerate(measures)
        for j, b in enumerate(measures)
    }


def partial_rank_correlation(findings: Findings, a: str, b: str, given: str, layer: str = _ALL) -> Estimate:
    """Return what is left of two measures' rank correlation in a layer, beyond what ``given`` has with both.

    Source: Kendall, *Partial rank correlation*, Biometrika 1942; here of Spearman's coefficients.
    """
    numbers: Any = findings.numbers
    i, j, k = (numbers["measures"].index(name) for name in (a, b, given))
    return mean_and_interval(
        [
            (matrix[i][j] - matrix[i][k] * matrix[j][k]) / math.sqrt((1 - matrix[i][k] ** 2) * (1 - matrix[j][k] ** 2))
            for matrix in numbers["spearman"][layer]
        ]
    )


def draw_measures(findings: Findings) -> Figure:
    """Draw the rank correlations over all weights and of omega by layer, and omega of some weights against the rest."""
    with matplotlib.rc_context(fname=STYLE):
        numbers: Any = findings.numbers
        measures, scatter = numbers["measures"], numbers["scatter"]
        bottom = _AXIS + footer_height(study_warnings(findings))
        height = bottom + _STRIP + _GAP + _SQUARE + _HEADER
        figure = Figure(figsize=(_WIDTH, height))

        def panel(left: float, above: float, wide: float, high: float) -> Axes:
            return figure.add_axes((left / _WIDTH, above / height, wide / _WIDTH, high / height))

        found = rank_correlations(findings, _ALL)
        ax = panel(1.05, bottom + _STRIP + _GAP, _SQUARE, _SQUARE)
        _correlations(ax, np.array([[found[a, b].mean for b in measures] for a in measures]), measures)
        ax.set_xticks([])
        ax.set_title("rank correlation, all weights", pad=6)

        by_layer = [rank_correlations(findings, layer) for layer in _LAYERS]
        ax = panel(1.05, bottom, _SQUARE, _STRIP)
        _correlations(ax, np.array([[of["omega", b].mean for b in measures] for of in by_layer]), [*_LAYERS.values()])
        ax.set_xticks(range(len(measures)), measures, rotation=35, ha="right")
        ax.set_title("rank correlation of omega, by layer", pad=6)

        others = [measure for measure in measures if measure != "omega"]
        omega = np.array(scatter["omega"])
        for k, measure in enumerate(others):
            row, column = divmod(k, 2)
            ax = panel(5.35 + 1.9 * column, bottom + 4.15 - 2.075 * row, 1.45, 1.4)
            _against(ax, np.array(scatter[measure]), omega)
            ax.set_title(measure, pad=3, size=9)
            if column == 0:
                ax.set_ylabel("omega", size=8)
        reached, seeds = fmean(numbers["test_accuracy"]), _seeds(findings)
        told = (
            f"A network that has learnt MNIST (test accuracy {reached:.3f}); mean over {seeds}."
            f" Right: omega of {len(omega)} weights of one seed, without zeros."
        )
        inscribe(figure, findings.title, told, study_warnings(findings))
    return figure


def _correlations(ax: Axes, square: NDArray[np.float64], rows: list[str]) -> None:
    ax.imshow(square, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(len(rows)), rows)
    for i, j in np.ndindex(square.shape):
        dark = abs(square[i, j]) > 0.6
        ax.text(j, i, f"{square[i, j]:z.2f}", ha="center", va="center", color="white" if dark else "#222222")


def _against(ax: Axes, values: NDArray[np.float64], omega: NDArray[np.float64]) -> None:
    shown = (omega > 0) & (values > 0)
    ax.loglog(values[shown], omega[shown], "o", ms=2, mew=0, alpha=0.5, color="#0072B2")
    ax.tick_params(labelsize=7)
    ax.minorticks_off()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=3))
        axis.set_major_formatter(StrMethodFormatter("{x:.0e}"))


def _seeds(findings: Findings) -> str:
    numbers: Any = findings.numbers
    return seeds_shown(len(numbers["test_accuracy"]))


def measure_rows(findings: Findings) -> list[Row]:
    """Return how alike path, omega and each other measure are, what explains it, and two checks of Fisher."""
    numbers: Any = findings.numbers
    found, seeds = rank_correlations(findings, _ALL), _seeds(findings)
    told = {
        f"rank correlation of {a} and {b}": estimate
        for (a, b), estimate in found.items()
        if (a in ("omega", "path") and b not in ("omega", a)) or (a, b) == ("|weight|", "distance")
    }
    for layer, name in {_ALL: _ALL, **_LAYERS}.items():
        told[f"rank correlation of omega and |weight|, distance held fixed, {name}"] = partial_rank_correlation(
            findings, "omega", "|weight|", given="distance", layer=layer
        )
    for layer, name in {_ALL: _ALL, **_LAYERS}.items():
        for kind, which in {"spearman": "", "spearman_live": ", without units that are always off"}.items():
            if (layer, which) != (_ALL, ""):
                found_there = rank_correlations(findings, layer, kind)["omega", "Fisher"]
                told[f"rank correlation of omega and Fisher, {name}{which}"] = found_there
    zero, compared = numbers["zero_fisher"][_ALL], numbers["compared"][_ALL]
    told["share of the compared weights whose Fisher information is zero"] = mean_and_interval(
        [some / all_ for some, all_ in zip(zero, compared, strict=True)]
    )
    off = ", ".join(map(str, numbers["units_off"]))
    worst = max(numbers["fisher_against_hessian"])
    return [
        *(Row(what, "-", f"{estimate} ({seeds})") for what, estimate in told.items()),
        Row("hidden units that are always off, seed by seed", "-", f"{off} ({seeds})"),
        Row("Fisher information against Hessian, largest difference over largest value", "0", f"{worst:.1e} ({seeds})"),
    ]
