"""The figure of the quadratic loss: a panel for each of the paper's equations 11 to 14."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.style import FAINT, SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import mean_and_interval
from synaptic_intelligence.report.wording import study_warnings

_PATH, _OMEGA = "#0072B2", "#009E73"
_WIDTH, _HEADER, _PANEL, _GAP, _AXIS = 9.0, 1.1, 2.55, 1.1, 0.6  # inches; the gap is between the rows
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw_quadratic(findings: Findings) -> Figure:
    """Draw simulation against equation: the error for each step, the average over starts, and omega and the curvature.

    All seeds are drawn. Errors are in percent of what the equation says.

    Source: Zenke et al. 2017, eqs. 11 to 14.
    """
    with matplotlib.rc_context(fname=STYLE):
        numbers: Any = findings.numbers
        settings: Any = findings.settings
        said = study_warnings(findings)
        bottom = _AXIS + footer_height(said)
        height = _HEADER + 2 * _PANEL + _GAP + bottom
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(0.85 / _WIDTH, bottom / height, 1 - 0.15 / _WIDTH, 1 - _HEADER / height)
        axes = figure.subplots(2, 2, gridspec_kw={"wspace": 0.28, "hspace": _GAP / _PANEL})
        _steps(axes[0, 0], numbers["eq. 11"], settings["step_sizes"])
        _averages(axes[0, 1], numbers["eq. 12"], numbers["counts"])
        _diagonal(axes[1, 0], numbers["eq. 13"], settings["step_sizes"])
        _rank_one(axes[1, 1], numbers["eq. 14"], settings["step_sizes"])
        seeds = len(numbers["eq. 11"]["error"])
        told = (
            f"{settings['dimension']} synapses, {settings['initial_conditions']} starting points, "
            f"{seeds} random Hessian{'s'[: seeds != 1]} of each kind; step sizes in units of 1 / largest eigenvalue."
        )
        inscribe(figure, findings.title, told, said)
    return figure


def _steps(ax: Axes, found: dict[str, Any], sizes: list[float]) -> None:
    _titles(ax, "Eq. 11: the error halves with the step", "any Hessian; path of the synapses against the closed form")
    errors, zero = np.array(found["error"]), min(sizes) / 2
    ax.loglog(sizes, errors.T, "o-", color=_PATH, linewidth=1)
    ax.plot([zero] * len(errors), found["extrapolated"], "D", color="white", markeredgecolor=_PATH, markeredgewidth=1.1)
    guide = errors[:, 0].mean() * 1.9 * np.array(sizes) / sizes[0]
    ax.plot(sizes, guide, "--", color=FAINT, linewidth=1)
    middle = len(sizes) // 2
    _label(ax, "proportional to the step", (sizes[middle], guide[middle]), (-5, 5), "right")
    _label(ax, "extrapolated to 0", (zero, max(found["extrapolated"])), (-7, 12), "left")
    _corner(ax, f"error ~ step to the power {fmean(found['order']):.2f}", "right")
    ax.set_xticks([], minor=True)
    ax.set_xticks([zero, *sizes], ["→ 0", *(f"{size:g}" for size in sizes)])
    ax.set(xlabel="step size", ylabel="largest error", xlim=(zero / 1.3, max(sizes) * 1.3))
    _powers_of_ten(ax, "y", [*errors.flat, *guide, *found["extrapolated"]], percent=True)


def _averages(ax: Axes, found: dict[str, Any], counts: list[int]) -> None:
    _titles(ax, "Eq. 12: on average the path is the diagonal", "any Hessian; mean path over many starts")
    errors, expected = np.array(found["error"]), np.mean(found["expected"], axis=0)
    ax.loglog(counts, errors.T, "o", color=_PATH)
    ax.plot(counts, expected, "--", color=FAINT, linewidth=1)
    middle = len(counts) // 2
    _label(ax, "expected, ~ 1 / √n", (counts[middle], expected[middle]), (-5, -7), "right")
    one, every = fmean(found["correlation_of_one_start"]), fmean(found["correlation"])
    _corner(
        ax, f"correlation with the diagonal\n{one:.2f} for one start (median)\n{every:.2f} for {counts[-1]}", "left"
    )
    shown = counts[:: max(1, (len(counts) + 5) // 6)]
    ax.set_xticks([], minor=True)
    ax.set_xticks(shown, [str(count) for count in shown])
    ax.set(xlabel="starting points n", ylabel="error of the mean", xlim=(0.7, counts[-1] * 1.45))
    _powers_of_ten(ax, "y", [*errors.flat, *expected, 0.01, 2.0], percent=True)
    inset = ax.inset_axes((0.66, 0.62, 0.33, 0.37))
    predicted, path = _flat(found["predicted"]), _flat(found["path"])
    _identity(inset, predicted)
    inset.plot(predicted, path, "o", color=_PATH, markersize=2.6, markeredgewidth=0.2)
    inset.set(xticks=[], yticks=[], xlim=(0, max(predicted) * 1.15), ylim=(0, max(path) * 1.15))
    inset.set_xlabel("½ σ² H, diagonal", size=7.5, labelpad=2)
    inset.set_ylabel(f"mean of {counts[-1]}", size=7.5, labelpad=2)


def _diagonal(ax: Axes, found: dict[str, Any], sizes: list[float]) -> None:
    _titles(ax, "Eq. 13: omega is half the curvature", "diagonal Hessian; one start of each, every synapse")
    x, y = _flat(found["half_curvature"]), _flat(found["omega"])
    _identity(ax, x)
    ax.loglog(x, y, "o", color=_OMEGA)
    _errors(ax, sizes, found["error"], found["extrapolated"])
    ax.set(xlabel="half the Hessian's diagonal", ylabel="omega")
    _powers_of_ten(ax, "x", x)
    _powers_of_ten(ax, "y", y)


def _rank_one(ax: Axes, found: dict[str, Any], sizes: list[float]) -> None:
    _titles(ax, "Eq. 14: the path follows, omega does not", "Hessian of rank 1: omega is the same for every synapse")
    x, omega = _flat(found["half_curvature"]), _flat(found["omega"])
    path = _flat(found["path_over_squared_distance"])
    _identity(ax, x)
    ax.loglog(x, path, "o", color=_PATH)
    ax.plot(x, omega, "s", color=_OMEGA, markersize=4)
    place = (min(x), max(omega))
    _label(ax, "omega: half the eigenvalue", place, (0, -13), "left", _OMEGA)
    _label(ax, "path over the whole movement's |d|²", place, (0, -27), "left", _PATH)
    both = [[*found[f"path_{error}"], *found[f"omega_{error}"]] for error in ("error", "extrapolated")]
    _errors(ax, sizes, *both)
    ax.set(xlabel="half the Hessian's diagonal", ylabel="path over |d|², and omega")
    _powers_of_ten(ax, "x", x)
    _powers_of_ten(ax, "y", [*path, *omega])


def _titles(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title, loc="left")
    ax.annotate(subtitle, (0, 1), (0, 4), "axes fraction", "offset points", size=8.5, color=SOFT)
    ax.grid(visible=True, axis="both")


_Align = Literal["left", "right"]


def _label(
    ax: Axes, text: str, point: tuple[float, float], aside: tuple[float, float], align: _Align, color: str = FAINT
) -> None:
    ax.annotate(text, point, aside, "data", "offset points", ha=align, va="center", size=8.5, color=color)


def _corner(ax: Axes, text: str, align: _Align) -> None:
    x = 0.025 if align == "left" else 0.985
    ax.text(x, 0.045, text, transform=ax.transAxes, ha=align, size=8.5, color=SOFT, linespacing=1.4)


def _errors(ax: Axes, sizes: list[float], errors: list[list[float]], extrapolated: list[float]) -> None:
    last, zero = (f"{100 * max(found):.2g} %" for found in ([error[-1] for error in errors], extrapolated))
    _corner(ax, f"largest error\n{last} at a step of {sizes[-1]:g}\n{zero} extrapolated to 0", "right")


def _identity(ax: Axes, x: list[float]) -> None:
    ends = [min(x) / 1.5, max(x) * 1.5]
    ax.plot(ends, ends, "--", color=FAINT, linewidth=1, zorder=1)


def _flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _powers_of_ten(ax: Axes, which: Literal["x", "y"], values: Sequence[float], *, percent: bool = False) -> None:
    """Set a few ticks at powers of ten (with twice and five times those on a short axis), and limits around."""
    low, high = float(np.log10(min(values))) - 0.15, float(np.log10(max(values))) + 0.15
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    if percent or high - low > 2:
        ticks = [10.0**power for power in powers if (powers[-1] - power) % (len(powers) // 8 + 1) == 0]
    else:
        ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    if percent:
        words = [f"{100 * tick:g} %" for tick in ticks]
    elif high - low > 2:
        words = ["10" + str(round(np.log10(tick))).translate(_SUPERSCRIPTS) for tick in ticks]
    else:
        words = [f"{tick:g}" for tick in ticks]
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks(ticks, words)
    axis.set_ticks([], minor=True)
    ax.set(**{f"{which}lim": (10**low, 10**high)})


def quadratic_rows(findings: Findings) -> list[Row]:
    """Return how well each equation holds: extrapolated to steps of zero, the worst of all seeds."""
    numbers: Any = findings.numbers
    settings: Any = findings.settings
    flow, average, diagonal, rank_1 = (numbers[f"eq. {number}"] for number in (11, 12, 13, 14))
    smallest = f"steps of {settings['step_sizes'][-1]:g}"
    error = "largest error of"

    def worst(values: Sequence[float]) -> str:
        return f"{max(values):.1e}"

    return [
        Row(f"eq. 11, {error} the path, {smallest}", "-", worst([errors[-1] for errors in flow["error"]])),
        Row(f"eq. 11, {error} the path, extrapolated to steps of zero", "0", worst(flow["extrapolated"])),
        Row(
            f"eq. 12, error of the mean path over {numbers['counts'][-1]} starts (expected: from chance alone)",
            f"{fmean(expected[-1] for expected in average['expected']):.3f}",
            str(mean_and_interval([errors[-1] for errors in average["error"]])),
        ),
        Row(
            "eq. 12, that error falls as the number of starts to the power",
            "-0.5",
            str(mean_and_interval(average["slope"])),
        ),
        Row(f"eq. 13, {error} omega, extrapolated to steps of zero", "0", worst(diagonal["extrapolated"])),
        Row(f"eq. 14, {error} the path, extrapolated to steps of zero", "0", worst(rank_1["path_extrapolated"])),
        Row(f"eq. 14, {error} omega, extrapolated to steps of zero", "0", worst(rank_1["omega_extrapolated"])),
        Row("eq. 14, spread of omega over the synapses", "0", worst(rank_1["omega_spread"])),
    ]
