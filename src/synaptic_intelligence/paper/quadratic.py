"""The figure of the quadratic loss: a panel for each of the paper's equations 11 to 14."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from synaptic_intelligence.findings import Findings
from synaptic_intelligence.report.style import FAINT, SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.report.wording import study_warnings

_PATH, _OMEGA = "#0072B2", "#009E73"
_WIDTH, _HEADER, _PANEL, _GAP, _AXIS = 9.0, 1.1, 2.55, 1.1, 0.6  # inches; the gap is between the rows
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(findings: Findings) -> Figure:
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
    _label(ax, "extrapolated\nto a step of 0", (zero, max(found["extrapolated"])), (9, -4), "left")
    _corner(ax, f"error ~ step to the power {fmean(found['order']):.2f}", "right")
    ax.set_xticks([zero, *sizes], ["→ 0", *(f"{size:g}" for size in sizes)])
    ax.set(xlabel="step size", ylabel="largest error", xlim=(zero / 1.3, max(sizes) * 1.3))
    _powers_of_ten(ax.yaxis, [*errors.flat, *guide, *found["extrapolated"]], percent=True)
    ax.minorticks_off()


def _averages(ax: Axes, found: dict[str, Any], counts: list[int]) -> None:
    _titles(ax, "Eq. 12: on average the path is the diagonal", "any Hessian; mean path over many starts")
    errors, expected = np.array(found["error"]), np.mean(found["expected"], axis=0)
    ax.loglog(counts, errors.T, "o", color=_PATH)
    ax.plot(counts, expected, "--", color=FAINT, linewidth=1)
    middle = len(counts) // 2
    _label(ax, "expected: 1 / √n", (counts[middle], expected[middle]), (-5, -7), "right")
    one, every = fmean(found["correlation_of_one_start"]), fmean(found["correlation"])
    _corner(
        ax, f"correlation with the diagonal\n{one:.2f} for one start (median)\n{every:.2f} for {counts[-1]}", "left"
    )
    shown = counts[:: max(1, (len(counts) + 5) // 6)]
    ax.set_xticks(shown, [str(count) for count in shown])
    ax.set(xlabel="starting points n", ylabel="error of the mean", xlim=(0.7, counts[-1] * 1.45))
    _powers_of_ten(ax.yaxis, [*errors.flat, *expected, 0.01, 2.0], percent=True)
    ax.minorticks_off()
    inset = ax.inset_axes((0.62, 0.58, 0.36, 0.4))
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
    ticks = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    ax.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    ax.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
    ax.minorticks_off()


def _rank_one(ax: Axes, found: dict[str, Any], sizes: list[float]) -> None:
    _titles(ax, "Eq. 14: the path follows, omega does not", "Hessian of rank 1: omega is the same for every synapse")
    x, omega = _flat(found["half_curvature"]), _flat(found["omega"])
    path = _flat(found["path_over_squared_distance"])
    _identity(ax, x)
    ax.loglog(x, path, "o", color=_PATH)
    ax.plot(x, omega, "s", color=_OMEGA, markersize=4)
    _label(ax, "omega: half the eigenvalue", (min(x), max(omega)), (0, -13), "left", _OMEGA)
    middle = sorted(zip(x, path, strict=True))[len(x) // 2]
    _label(ax, "path over d²", middle, (-12, 4), "right", _PATH)
    _errors(
        ax,
        sizes,
        [*found["path_error"], *found["omega_error"]],
        found["path_extrapolated"] + found["omega_extrapolated"],
    )
    ax.set(xlabel="half the Hessian's diagonal", ylabel="path over d², and omega")
    _powers_of_ten(ax.xaxis, x)
    _powers_of_ten(ax.yaxis, [*path, *omega])
    ax.minorticks_off()


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


def _powers_of_ten(axis: Axis, values: Sequence[float], *, percent: bool = False) -> None:
    """Set ticks at the powers of ten, at most six or so of them, and limits a little beyond the values."""
    logs = np.log10(values)
    low, high = float(logs.min()), float(logs.max())
    first, last = int(np.ceil(low - 0.15)), int(np.floor(high + 0.15))
    powers = range(last, first - 1, -max(1, (last - first) // 4))
    words = [f"{100 * 10.0**p:g} %" if percent else "10" + str(p).translate(_SUPERSCRIPTS) for p in powers]
    axis.set_ticks([10.0**p for p in powers], words)
    limits = 10 ** (low - 0.15), 10 ** (high + 0.15)
    axis.axes.set(**{f"{axis.axis_name}lim": limits})
