"""The figures of the paper show what the numbers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import RESULT, run
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.paper.correlation_figure import draw_correlations
from synaptic_intelligence.paper.expected import draw_beside_paper
from synaptic_intelligence.paper.final import draw_final


def _text(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def _correlation(value: float) -> dict[str, list[list[float]]]:
    return {name: [[1.0], [value + i / 10, 1.0]] for i, name in enumerate(("0.weight", "2.weight", "4.weight"))}


def test_final_accuracies_are_the_bars_and_training_accuracies_the_dots() -> None:
    runs = [
        run(0, "si", 0.0, last=[0.2, 0.4], train=[0.5, 0.7]),
        run(1, "si", 0.0, last=[0.4, 0.6], train=[0.7, 0.9]),
        run(0, "scratch", None, last=[0.8, 0.9], train=[1.0, 1.0]),
    ]
    (ax,) = draw_final(replace(RESULT, runs=runs, planned_runs=3)).axes
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers if isinstance(bars, BarContainer)]
    assert heights == [pytest.approx([0.3, 0.5, 0.4]), pytest.approx([0.8, 0.9, 0.85])]
    dots = [line.get_ydata() for line in ax.get_lines() if line.get_marker() == "o"]
    assert np.allclose(np.array(dots), [[0.6, 0.8, 0.7], [1.0, 1.0, 1.0]])


def test_old_results_without_training_accuracies_have_bars_alone() -> None:
    (ax,) = draw_final(replace(RESULT, runs=[run(0, "si", 1.0, last=[0.5, 0.5])], planned_runs=1)).axes
    assert [line for line in ax.get_lines() if line.get_marker() == "o"] == []


def _diamonds(ax: Axes) -> list[list[float]]:
    lines = [np.asarray(line.get_xydata()) for line in ax.get_lines() if line.get_marker() == "D"]
    return [[float(x), float(y)] for (x, y), *more in lines if not more]


def test_the_papers_averages_are_diamonds_on_the_bars_of_their_methods() -> None:
    runs = [
        run(0, "si", 0.0, last=[0.5] * 6),
        run(0, "si", 0.5, last=[0.5] * 6),
        run(0, "scratch", None, last=[0.5] * 6),
    ]
    names = [str(i) for i in range(6)]
    result = replace(RESULT, experiment="split-cifar", task_names=names, runs=runs, planned_runs=3)
    (ax,) = draw_final(result).axes
    bars = [list(bars)[-1] for bars in ax.containers if isinstance(bars, BarContainer)]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert np.allclose(_diamonds(ax), [[middles[0], 0.625], [middles[2], 0.711]])  # the paper has no c = 0.5
    assert _text(draw_final(result)).count("the authors' stored run") == 1
    (shorter,) = draw_final(replace(result, deviations=["1 epoch instead of 60"])).axes
    assert _diamonds(shorter) == []


def test_the_authors_averages_stand_right_of_the_lines_ends() -> None:
    runs = [run(0, "si", 0.1, last=[0.9] * 10), run(0, "joint", None, last=[0.95] * 10)]
    names = [str(i) for i in range(10)]
    result = replace(RESULT, experiment="permuted-mnist", task_names=names, runs=runs, planned_runs=2, chance=0.1)
    *others, average = draw_beside_paper(result).axes
    ((x, y),) = _diamonds(average)
    assert y == 0.969
    lines = [np.asarray(line.get_xydata()) for line in average.get_lines()]
    (end,) = (points[-1, 0] for points in lines if len(points) == 10)
    assert end + 0.2 < x < average.get_xlim()[1]
    assert all(_diamonds(ax) == [] for ax in others)
    assert _text(draw_beside_paper(result)).count("the authors' stored run") == 1
    # Where figure 3 gives a range of accuracies on training images, nothing is drawn.
    of_figure_3 = replace(RESULT, runs=[run(0, "si", 1.0, last=[0.9, 0.9])])
    assert all(_diamonds(ax) == [] for ax in draw_beside_paper(of_figure_3).axes)


def test_the_squares_are_symmetric_and_share_one_scale() -> None:
    runs = [
        run(0, "si", 0.0, last=[0.5, 0.5], correlation=_correlation(0.3)),
        run(0, "si", 0.1, last=[0.5, 0.5], correlation=_correlation(0.1)),
        run(0, "joint", None, last=[0.5, 0.5]),
    ]
    figure = draw_correlations(replace(RESULT, runs=runs, planned_runs=3))
    images = [ax.get_images()[0] for ax in figure.axes if ax.get_images()]
    assert len(images) == 6
    assert np.allclose(np.asarray(images[1].get_array()), [[1.0, 0.4], [0.4, 1.0]])
    assert {image.get_clim() for image in images} == {(-0.5, 0.5)}


@pytest.mark.parametrize("kind", ["final", "correlations"])
def test_what_is_not_the_protocol_is_said_in_the_figure(kind: str) -> None:
    short = replace(RESULT, deviations=["1 epoch instead of 10"], runs=[run(0, "si", 1.0, last=[0.5, 0.5])])
    figures = {
        "final": lambda: draw_final(short),
        "correlations": lambda: draw_correlations(short),
    }
    assert "This is not the" in _text(figures[kind]())


@pytest.mark.parametrize("kind", ["final", "correlations"])
def test_the_same_numbers_make_the_same_file(kind: str) -> None:
    runs = [run(0, "si", 0.1, last=[0.5, 0.5], correlation=_correlation(0.1))]
    result = replace(RESULT, runs=runs)
    figures = {
        "final": lambda: draw_final(result),
        "correlations": lambda: draw_correlations(result),
    }
    assert svg_text(figures[kind]()) == svg_text(figures[kind]())


def test_nothing_complete_is_no_error_and_said() -> None:
    assert "No run is complete." in _text(draw_final(RESULT))
    assert "No run whose paths were compared is complete." in _text(draw_correlations(RESULT))
