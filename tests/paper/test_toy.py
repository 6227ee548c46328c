from __future__ import annotations

import copy
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.patches import Rectangle

from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.experiments.study import run_study
from synaptic_intelligence.experiments.toy import TASKS, TOY, Toy, valley_loss
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.toy import draw_toy


@pytest.fixture(scope="module")
def findings() -> Findings:
    return run_study(TOY, Toy(lr=0.1, steps=1500), None, 1, "synaptic run toy", lambda words: None)


def ways(ax: Axes, color: str) -> list[Any]:
    """The lines of one colour that are more than a marker, as arrays of points."""
    lines = [np.asarray(line.get_xydata()) for line in ax.get_lines() if line.get_color() == color]
    return [line for line in lines if len(line) > 2]


def contours(ax: Axes) -> list[QuadContourSet]:
    return [found for found in ax.get_children() if isinstance(found, QuadContourSet)]


def test_three_landscapes_a_cut_and_what_is_left(findings: Findings) -> None:
    titles = [ax.get_title(loc="left") for ax in draw_toy(findings).axes]
    assert [title.partition(":")[0] for title in titles] == [
        "1  Learning task 1",
        "2  What is kept",
        "3  Learning task 2",
        "Why this bowl",
        "What is left of task 1",
    ]


def test_the_ways_are_those_of_the_findings(findings: Findings) -> None:
    figure, numbers = draw_toy(findings), findings.numbers
    first, second = numbers["first"], numbers["second"]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    (way,) = ways(figure.axes[0], "#222222")
    assert way.tolist() == first["trajectory"]
    (without,), (kept) = ways(figure.axes[2], "#D55E00"), ways(figure.axes[2], "#0072B2")[0]
    assert without.tolist() == second["without"]
    assert kept.tolist() == second["with"]
    for ax in figure.axes[:3]:
        assert ax.get_xlim() == figure.axes[0].get_xlim()
        assert ax.get_ylim() == figure.axes[0].get_ylim()
        assert ax.bbox.width == pytest.approx(ax.bbox.height)


def test_the_bowl_is_an_ellipse_around_the_anchor_with_half_axes_by_omega(findings: Findings) -> None:
    ax = draw_toy(findings).axes[1]
    lines = contours(ax)[-1]
    level = min(lines.levels)
    first: Any = findings.numbers["first"]
    path = lines.get_paths()[0].vertices
    reach = (np.ptp(np.asarray(path), axis=0) / 2).tolist()
    assert reach == pytest.approx([(level / omega) ** 0.5 for omega in first["omega"]], rel=0.01)
    assert np.mean(np.asarray(path), axis=0).tolist() == pytest.approx(first["anchor"], abs=0.05)


def test_the_landscape_is_the_loss(findings: Findings) -> None:
    # The level line through task 1 that is drawn dashed in the third panel: every point of it has that loss.
    lines = contours(draw_toy(findings).axes[2])[-1]
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        found = valley_loss(torch.as_tensor(np.asarray(path.vertices)), TASKS[0]).numpy()
        assert np.abs(found - level).max() < 0.05 * level


def test_on_the_cut_loss_and_surrogate_meet_at_start_and_end(findings: Findings) -> None:
    ax = draw_toy(findings).axes[3]
    (true,), (bowl,) = ways(ax, "#8B5FBF"), ways(ax, "#0072B2")
    losses: Any = findings.numbers["losses"]
    for t, stage in ((0.0, "start"), (1.0, "after task 1")):
        expected = losses[stage][0]
        assert np.interp(t, *true.T) == pytest.approx(expected, abs=1e-3)
        # The first-order error of the steps, here large, is all that keeps them apart.
        assert np.interp(t, *bowl.T) == pytest.approx(expected, abs=5e-3)


def test_the_bars_are_the_losses(findings: Findings) -> None:
    ax = draw_toy(findings).axes[4]
    losses: Any = findings.numbers["losses"]
    bars = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert bars == [*losses["after task 1"], *losses["without"], *losses["with"]]
    written = [text.get_text() for text in ax.texts]
    assert [f"{bar:.2f}" for bar in bars] == [text for text in written if text.startswith(("0.", "1."))]


def test_what_is_written_follows_the_findings(findings: Findings) -> None:
    changed = replace(copy.deepcopy(findings), settings={**findings.settings, "c": 2.5})
    numbers: Any = changed.numbers
    numbers["first"]["path"] = [0.111, 0.222]
    written = " ".join(text.get_text() for ax in draw_toy(changed).axes for text in ax.texts)
    assert "first synapse 0.111, second 0.222" in written
    assert "c = 2.5" in written


def test_deviations_are_said(findings: Findings) -> None:
    said = [text for text in draw_toy(findings).texts if "not the study as it is meant" in text.get_text()]
    assert [text.get_color() for text in said] == ["#A33B00"]
    assert "lr 0.1 instead of 0.01" in said[0].get_text()
    assert not any("meant" in text.get_text() for text in draw_toy(replace(findings, deviations=[])).texts)


def test_all_text_lies_inside_the_figure_and_apart(findings: Findings) -> None:
    figure = draw_toy(findings)
    figure.draw_without_rendering()  # places the labels of the axes
    every = [text for ax in figure.axes for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label]]
    boxes = [text.get_window_extent() for text in [*every, *figure.texts] if text.get_text()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_the_same_findings_give_the_same_svg(findings: Findings) -> None:
    text = svg_text(draw_toy(findings))
    assert text == svg_text(draw_toy(findings))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
