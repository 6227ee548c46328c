"""The averages of the authors' stored runs in figures of ours: a diamond beside the number to compare each with."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.style import SOFT
from synaptic_intelligence.paper.row import is_comparable
from synaptic_intelligence.paper.targets import TARGETS
from synaptic_intelligence.report import draw_figure
from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.report.wording import method_name
from synaptic_intelligence.result import Result

EXPECTED = "the authors' stored run"
"""What the diamonds are called."""


def expected_averages(result: Result) -> dict[str, float]:
    """Return the authors' average accuracy after the last task on test images, by the name of the method that we ran.

    There is none for a result that is not comparable, and none where the paper has a range alone.
    """
    targets = TARGETS.get(result.experiment, {}) if is_comparable(result) else {}
    found = {method_name(s.method, s.c): targets.get((s.method, s.c)) for s in summarize(result)}
    return {name: t.low for name, t in found.items() if t and t.low == t.high and not t.on_training_images}


def draw_beside_paper(result: Result) -> Figure:
    """Draw accuracy against the number of tasks learnt, with the authors' averages right of the lines' ends."""
    figure = draw_figure(result)
    average, expected = figure.axes[-1], expected_averages(result)
    aside = average.get_xlim()[1] - 0.1  # among the lines' last points it would pass for one of another method
    for container in average.containers:
        name = str(container.get_label())
        if isinstance(container, ErrorbarContainer) and name in expected:
            mark(average, aside, expected[name], str(container.lines[0].get_color()))
    if expected:
        place = ((0, 0), (4, 3), "axes fraction", "offset points")
        average.annotate(f"\N{WHITE DIAMOND} {EXPECTED}", *place, size=7.5, color=SOFT)
    return figure


def mark(ax: Axes, x: float, y: float, color: str, label: str | None = None) -> None:
    """Draw a diamond; also where the panel, which was made for our numbers, ends before it."""
    ax.plot([x], [y], "D", color="white", mec=color, ms=5, mew=1.3, zorder=4, clip_on=False, label=label)
