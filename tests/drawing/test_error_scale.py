from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.error_scale import set_error_scale


def height(ax: Axes, accuracy: float) -> float:
    """Return where an accuracy lies, as a share of the panel's height."""
    return float((ax.transData + ax.transAxes.inverted()).transform((0.5, accuracy))[1])


@pytest.mark.parametrize(("lowest", "highest"), [(0.1, 1.0), (0.5, 0.98), (0.0, 0.3), (1.0, 1.0), (0.1, 0.1)])
def test_all_that_was_given_lies_inside(lowest: float, highest: float) -> None:
    ax = Figure().subplots()
    set_error_scale(ax, lowest, highest)
    assert 0.01 < height(ax, lowest) <= height(ax, highest) < 0.99


def test_half_the_error_is_as_much_higher_everywhere_but_for_the_smallest_errors() -> None:
    ax = Figure().subplots()
    set_error_scale(ax, 0.1, 1.0)
    heights = [height(ax, 1 - 0.8 / 2**halvings) for halvings in range(7)]  # errors of 0.8 to 0.0125
    steps = np.diff(heights)
    assert steps == pytest.approx(np.full(6, steps[0]), rel=0.01)
    # No error is not infinitely far up.
    unit = steps[0] / math.log(2)
    assert height(ax, 1.0) - height(ax, 0.999) == pytest.approx(math.asinh(1) * unit, rel=0.01)


def test_what_is_above_one_as_an_interval_may_be_is_drawn_too() -> None:
    ax = Figure().subplots()
    set_error_scale(ax, 0.1, 0.999)
    assert height(ax, 1.0) < height(ax, 1.02) < math.inf


def test_ticks_are_accuracies() -> None:
    figure = Figure()
    ax = figure.subplots()
    set_error_scale(ax, 0.1, 0.985)
    figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [label.get_text() for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ["0.2", "0.5", "0.8", "0.9", "0.95", "0.97", "0.98"]


@pytest.mark.parametrize(
    ("lowest", "highest"),
    [(0.1, 0.985), (0.5, 0.76), (0.02, 0.3), (0.1, 0.12), (0.1, 0.1), (0.975, 0.985), (0.5, 1.0), (0.999, 1.0)],
)
def test_there_are_ticks_enough_to_read_it_and_not_too_many(lowest: float, highest: float) -> None:
    figure = Figure(figsize=(9, 4))
    ax = figure.subplots()
    set_error_scale(ax, lowest, highest)
    figure.canvas.draw()
    shown = [label for label in ax.get_yticklabels() if 0 <= height(ax, label.get_position()[1]) <= 1]
    assert 3 <= len({label.get_text() for label in shown}) == len(shown) <= 9
