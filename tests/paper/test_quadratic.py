from __future__ import annotations

import copy
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.experiments.quadratic import QUADRATIC, Quadratic
from synaptic_intelligence.experiments.study import run_study
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.quadratic import draw_quadratic

SMALL = Quadratic(seeds=2, dimension=4, condition_number=3.0, initial_conditions=64, step_sizes=(0.08, 0.04))


@pytest.fixture(scope="module")
def findings() -> Findings:
    return run_study(QUADRATIC, SMALL, None, 1, "synaptic run quadratic", lambda words: None)


def points(figure: Figure, panel: int, color: str) -> list[tuple[float, float]]:
    """All points that are drawn in one colour as markers without a line."""
    lines = [line for line in figure.axes[panel].get_lines() if line.get_color() == color]
    data = [np.asarray(line.get_xydata()) for line in lines if line.get_linestyle() == "None"]
    return [(float(x), float(y)) for x, y in np.concatenate(data)]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for ax in figure.axes for text in ax.texts)


def test_a_panel_for_each_equation(findings: Findings) -> None:
    figure = draw_quadratic(findings)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [title.partition(":")[0] for title in titles] == ["Eq. 11", "Eq. 12", "Eq. 13", "Eq. 14"]
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in figure.axes)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)


def test_every_number_is_drawn_where_it_belongs(findings: Findings) -> None:
    figure, numbers = draw_quadratic(findings), findings.numbers
    eq12, eq13, eq14 = (numbers[f"eq. {i}"] for i in (12, 13, 14))
    assert isinstance(eq12, dict)
    assert isinstance(eq13, dict)
    assert isinstance(eq14, dict)

    def pairs(x: Any, y: Any) -> list[tuple[float, float]]:
        return list(zip(np.ravel(x).tolist(), np.ravel(y).tolist(), strict=True))

    assert sorted(points(figure, 1, "#0072B2")) == sorted(pairs([numbers["counts"]] * 2, eq12["error"]))
    assert points(figure, 2, "#009E73") == pairs(eq13["half_curvature"], eq13["omega"])
    assert points(figure, 3, "#009E73") == pairs(eq14["half_curvature"], eq14["omega"])
    assert points(figure, 3, "#0072B2") == pairs(eq14["half_curvature"], eq14["path_over_squared_distance"])
    for ax in figure.axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for line in ax.get_lines():
            if line.get_linestyle() == "None":
                for x, y in np.asarray(line.get_xydata()):
                    assert left < x < right
                    assert low < y < high


def test_what_is_written_follows_the_findings(findings: Findings) -> None:
    changed = copy.deepcopy(findings)
    numbers: Any = changed.numbers
    numbers["eq. 11"]["order"] = [1.5, 2.5]
    numbers["eq. 12"]["correlation"] = [0.1, 0.3]
    numbers["eq. 13"]["error"] = [[0.2, 0.125], [0.2, 0.1]]
    assert "step to the power 2.00" in words(draw_quadratic(changed))
    assert "0.20 for 64" in words(draw_quadratic(changed))
    assert "12 % at a step of 0.04" in words(draw_quadratic(changed))
    assert "step to the power 2.00" not in words(draw_quadratic(findings))


def test_deviations_are_said_and_the_study_as_meant_has_none(findings: Findings) -> None:
    said = [text for text in draw_quadratic(findings).texts if "not the study as it is meant" in text.get_text()]
    assert len(said) == 1
    assert "dimension 4 instead of 20" in said[0].get_text().replace("\n", " ")
    assert said[0].get_color() == "#A33B00"
    meant = draw_quadratic(replace(findings, deviations=[]))
    assert not any("meant" in text.get_text() for text in meant.texts)
    assert meant.get_figheight() < draw_quadratic(findings).get_figheight()


def test_all_text_lies_inside_the_figure_and_apart(findings: Findings) -> None:
    figure = draw_quadratic(findings)
    figure.draw_without_rendering()  # places the labels of the axes
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label] if text.get_text()]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_the_same_findings_give_the_same_svg(findings: Findings) -> None:
    text = svg_text(draw_quadratic(findings))
    assert text == svg_text(draw_quadratic(findings))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
