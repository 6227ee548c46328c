"""The figure of two synapses and two tasks: what is learnt, what is remembered, and what that does."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from synaptic_intelligence.drawing.style import FAINT, SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.experiments.toy import Valley, valley_loss
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.wording import method_name, study_warnings

_WITHOUT, _WITH, _BEFORE = "#D55E00", "#0072B2", "#222222"
_TASKS = ("#8B5FBF", "#3F8F5F")
_WIDTH, _HEADER, _SQUARE, _GAP, _LOWER, _AXIS = 9.0, 1.05, 2.6, 1.05, 2.0, 0.55  # inches
_LEFT, _BESIDE = 0.65, 0.25
_SHADES = 7

_Array = NDArray[np.float64]


def draw_toy(findings: Findings) -> Figure:
    """Draw both tasks as landscapes with the ways that were taken, and the surrogate loss that connects them.

    Above: learning task 1, the surrogate loss, learning task 2. Below: task 1's loss and its surrogate on the straight
    line from start to end of task 1, as in the paper, and both tasks' losses afterwards.

    Source: Zenke et al. 2017, figure 2.
    """
    with matplotlib.rc_context(fname=STYLE):
        numbers: Any = findings.numbers
        settings: Any = findings.settings
        names = {"without": method_name("si", 0.0), "with": method_name("si", settings["c"])}
        said = study_warnings(findings)
        bottom = _AXIS + footer_height(said)
        height = _HEADER + _SQUARE + _GAP + _LOWER + bottom
        figure = Figure(figsize=(_WIDTH, height))

        def panel(column: int, above: float, wide: float, high: float) -> Axes:
            left = _LEFT + column * (_SQUARE + _BESIDE)
            return figure.add_axes((left / _WIDTH, above / height, wide / _WIDTH, high / height))

        tasks = [Valley(**{**task, "minimum": tuple(task["minimum"])}) for task in numbers["tasks"]]
        maps = [panel(column, bottom + _LOWER + _GAP, _SQUARE, _SQUARE) for column in range(3)]
        for ax, shown in zip(maps, (0, 0, 1), strict=True):
            _landscape(ax, tasks[shown], _TASKS[shown], numbers)
            ax.tick_params(labelleft=ax is maps[0])
        maps[0].set_ylabel("second synapse")
        _first(maps[0], numbers["first"])
        _surrogate(maps[1], numbers)
        _second(maps[2], tasks[0], numbers, names)
        _cut(panel(0, bottom, 2 * _SQUARE + _BESIDE - 0.25, _LOWER), tasks[0], numbers)
        _losses(panel(2, bottom, _SQUARE, _LOWER), numbers["losses"], names)
        told = "Each task is a valley of its loss (dark is low). Where the two valleys cross, both tasks are solved."
        inscribe(figure, findings.title, told, said)
    return figure


def _first(ax: Axes, first: Any) -> None:
    _titles(ax, "1  Learning task 1", "path: first synapse {:.3f}, second {:.3f}".format(*first["path"]))
    _way(ax, first["trajectory"], _BEFORE)
    _label(ax, "start", first["trajectory"][0], (0, 9), _BEFORE, ha="center")
    _label(ax, "end", first["trajectory"][-1], (7, -3), _BEFORE)


def _surrogate(ax: Axes, numbers: Any) -> None:
    x, y = _grid(ax)
    first = numbers["first"]
    _titles(ax, "2  What is kept: a bowl", "omega: first synapse {:.3f}, second {:.3f}".format(*first["omega"]))
    bowl = _bowl(x, y, first["omega"], first["anchor"])
    ax.contour(x, y, bowl, levels=_levels(numbers), colors=_WITH, linewidths=1.1)
    ax.plot(*first["anchor"], "o", color=_WITH)
    _label(ax, "anchor", first["anchor"], (7, -3), _WITH)


def _second(ax: Axes, before: Valley, numbers: Any, names: dict[str, str]) -> None:
    _titles(ax, "3  Learning task 2", "held by the bowl, or not")
    x, y = _grid(ax)
    levels = _levels(numbers)[:2]
    ax.contour(x, y, _loss(x, y, before), levels=levels, colors=_TASKS[0], linewidths=0.9, linestyles="--")
    ways = numbers["second"]
    _way(ax, ways["without"], _WITHOUT)
    _way(ax, ways["with"], _WITH)
    ax.plot(*numbers["both_solved"], "X", color=_BEFORE, markersize=6)
    # Task 1's lines run below these words.
    halo: dict[str, Any] = {"ha": "right", "path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    _label(ax, "both solved", numbers["both_solved"], (-7, -9), _BEFORE, **halo)
    _label(ax, names["with"], ways["with"][len(ways["with"]) // 2], (-9, 0), _WITH, weight="bold", **halo)
    edge = (ax.get_xlim()[1], ways["without"][-1][1])
    _label(ax, names["without"].replace(" (", "\n("), edge, (-4, -26), _WITHOUT, weight="bold", **halo)
    ax.text(0.03, 0.94, "dashed: task 1", transform=ax.transAxes, size=8.5, color=_TASKS[0])


def _cut(ax: Axes, task: Valley, numbers: Any) -> None:
    _titles(
        ax, "Why this bowl: same drop, same movement, same minimum", "on the straight line from start to end of task 1"
    )
    first, losses = numbers["first"], numbers["losses"]
    start, end = np.array(first["trajectory"][0]), np.array(first["anchor"])
    t = np.linspace(-0.3, 1.6, 400)
    x, y = (start + t[:, None] * (end - start)).T
    high, low = losses["start"][0], losses["after task 1"][0]
    true, bowl = _loss(x, y, task), low + _bowl(x, y, numbers["conditions"]["omega"], first["anchor"])
    ax.plot(t, true, color=_TASKS[0])
    ax.plot(t, bowl, "--", color=_WITH)
    left = len(t) * 2 // 5
    _label(ax, "task 1", (t[left], true[left]), (6, 8), _TASKS[0], weight="bold")
    _label(ax, "surrogate", (t[left], bowl[left]), (-6, -8), _WITH, ha="right", weight="bold")
    ax.plot([0, 1], [high, low], "o", color=_BEFORE)
    below = -0.14 * high
    for a, b in (((0, low), (0, high)), ((0, below), (1, below))):
        ax.annotate("", a, b, arrowprops={"arrowstyle": "<->", "color": SOFT, "shrinkA": 3, "shrinkB": 3})
    _label(ax, "same drop", (0, 0.3 * high), (-4, 0), SOFT, ha="right")
    _label(ax, "same movement", (0.5, below), (0, -10), SOFT, ha="center")
    _label(ax, "same minimum", (1, below), (8, 0), SOFT)
    told = ("loss dropped by {loss:.4f}", "sum of the path {path:.4f}", "surrogate drops by {surrogate:.4f}")
    text = "\n".join(told).format(**numbers["conditions"]["drop"])
    ax.text(0.5, 0.95, text, transform=ax.transAxes, size=8.5, color=SOFT, va="top", linespacing=1.4)
    limits = (-0.4 * high, 1.05 * float(max(true.max(), bowl.max())))
    ax.set(ylabel="loss", xlim=(t[0], t[-1]), yticks=MaxNLocator(4).tick_values(0, limits[1]), ylim=limits)
    ax.set_xticks([0, 1], ["start", "end"])


def _losses(ax: Axes, losses: Any, names: dict[str, str]) -> None:
    _titles(ax, "What is left of task 1", "loss of each task, at the end of …")
    stages = (
        ("after task 1", FAINT, "… task 1"),
        ("without", _WITHOUT, f"… task 2, {names['without']}"),
        ("with", _WITH, f"… task 2, {names['with']}"),
    )
    most = max(loss for stage, _, _ in stages for loss in losses[stage])
    for i, (stage, shown, name) in enumerate(stages):
        for j, loss in enumerate(losses[stage]):
            x = j + 0.27 * (i - 1)
            ax.bar(x, loss, 0.24, color=shown)
            _label(ax, f"{loss:.2f}", (x, loss), (0, 6), shown, ha="center", weight="bold")
        ax.text(0.99, 0.95 - 0.095 * i, name, transform=ax.transAxes, size=8.5, color=shown, ha="right", va="center")
    ax.set(ylim=(0, 1.6 * most), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.set_xticks([0, 1], ["task 1", "task 2"])
    for tick, shown in zip(ax.get_xticklabels(), _TASKS, strict=True):
        tick.set(color=shown, weight="bold")


def _titles(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title, loc="left")
    ax.annotate(subtitle, (0, 1), (0, 4), "axes fraction", "offset points", size=8.5, color=SOFT)


def _landscape(ax: Axes, task: Valley, color: str, numbers: Any) -> None:
    ways = [numbers["first"]["trajectory"], *numbers["second"].values()]
    points = np.concatenate([np.array(way) for way in ways])
    middle, reach = (points.max(0) + points.min(0)) / 2, 0.62 * float(np.ptp(points, axis=0).max())
    ax.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
    ax.set_xlabel("first synapse")
    ax.grid(visible=False)
    x, y = _grid(ax)
    tints = LinearSegmentedColormap.from_list("task", [color, "white"])
    shades = [tints(0.35 + 0.65 * i / _SHADES) for i in range(_SHADES + 1)]
    ax.contourf(x, y, _loss(x, y, task), levels=[0, *_levels(numbers)], colors=shades, extend="max")


def _levels(numbers: Any) -> list[float]:
    """The losses that all landscapes share; squares, so that a bowl has lines at equal distances."""
    return [float(numbers["losses"]["start"][0]) * ((i + 1) / (_SHADES - 1)) ** 2 for i in range(_SHADES)]


def _grid(ax: Axes) -> tuple[_Array, _Array]:
    x, y = np.meshgrid(np.linspace(*ax.get_xlim(), 201), np.linspace(*ax.get_ylim(), 201))
    return x, y


def _loss(x: _Array, y: _Array, task: Valley) -> _Array:
    return valley_loss(torch.from_numpy(np.stack([x, y], axis=-1)), task).numpy()


def _bowl(x: _Array, y: _Array, omega: list[float], anchor: list[float]) -> _Array:
    (a, b), (at_x, at_y) = omega, anchor
    bowl: _Array = a * (x - at_x) ** 2 + b * (y - at_y) ** 2
    return bowl


def _way(ax: Axes, points: list[list[float]], color: str) -> None:
    way = np.array(points)
    ax.plot(*way.T, color=color)
    ax.plot(*way[0], "o", color="white", markeredgecolor=_BEFORE, markeredgewidth=1.2)
    ax.plot(*way[-1], "o", color=color)


def _label(ax: Axes, text: str, point: Any, aside: tuple[float, float], color: str, **more: Any) -> None:
    ax.annotate(text, point, aside, "data", "offset points", size=8.5, color=color, va="center", **more)


def toy_rows(findings: Findings) -> list[Row]:
    """Return how far the surrogate's drop is the loss's, and what became of task 1's loss.

    The other two conditions on the surrogate hold by its making: it is centred where task 1 ended.
    """
    numbers: Any = findings.numbers
    settings: Any = findings.settings
    conditions, losses = numbers["conditions"], numbers["losses"]
    return [
        Row("surrogate's drop over the loss's, less one", "0", f"{conditions['surrogate_against_drop']:.1e}"),
        Row("task 1's loss before it is learnt", "-", f"{losses['start'][0]:.3f}"),
        Row("task 1's loss after task 2, without synapses (c = 0)", "-", f"{losses['without'][0]:.3f}"),
        Row(f"task 1's loss after task 2, {method_name('si', settings['c'])}", "-", f"{losses['with'][0]:.3f}"),
    ]
