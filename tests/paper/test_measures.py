"""The figure and the rows of the importance measures show what the numbers say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from synaptic_intelligence.document import JSON
from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.paper.measures import draw_measures, measure_rows, partial_rank_correlation


def _text(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def test_the_figure_has_the_mean_over_seeds_and_omega_in_each_layer(
    made_up_measures: Callable[..., Findings],
) -> None:
    figure = draw_measures(made_up_measures(2))
    squares = [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes if ax.get_images()]
    assert [square.shape for square in squares] == [(7, 7), (3, 7)]
    assert np.allclose(squares[0], 0.6 + 0.4 * np.eye(7))
    assert np.allclose(squares[1], [[1.0] + [value] * 6 for value in (0.1, 0.2, 0.3)])
    assert "mean over 2 seeds" in _text(figure)


def test_each_row_says_how_many_seeds_it_is_of(made_up_measures: Callable[..., Findings]) -> None:
    rows = {row.what: row.ours for row in measure_rows(made_up_measures(2))}
    assert rows["rank correlation of omega and MAS"] == "0.600 ± 1.271 (2 seeds)"
    assert rows["rank correlation of omega and Fisher, output layer"] == "0.300 ± 0.000 (2 seeds)"
    live = "rank correlation of omega and Fisher, {}, without units that are always off"
    assert rows[live.format("first layer")] == "-0.100 ± 0.000 (2 seeds)"
    assert rows[live.format("all weights")] == "-0.400 ± 0.000 (2 seeds)"
    assert rows["hidden units that are always off, seed by seed"] == "0, 1 (2 seeds)"
    assert rows["rank correlation of omega and |weight|, distance held fixed, second layer"].endswith(" (2 seeds)")
    assert rows["rank correlation of |weight| and distance"] == "0.600 ± 1.271 (2 seeds)"
    assert rows["share of the compared weights whose Fisher information is zero"] == "0.010 ± 0.000 (2 seeds)"
    assert list(rows.values())[-1] == "3.0e-06 (2 seeds)"
    assert all(ours.endswith(" (1 seed)") for ours in (row.ours for row in measure_rows(made_up_measures(1))))


def test_a_partial_correlation_is_that_of_what_a_straight_line_on_the_given_ranks_leaves(
    made_up_measures: Callable[..., Findings],
) -> None:
    ranks = np.array([[1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], [3, 1, 2, 6, 5, 4]], dtype=float)
    a, b, given = ranks
    left = [values - np.polyval(np.polyfit(given, values, 1), given) for values in (a, b)]
    findings = made_up_measures(1)
    numbers: dict[str, JSON] = {
        **findings.numbers,
        "measures": ["a", "b", "given"],
        "spearman": {"all weights": [np.corrcoef(ranks).tolist()]},
    }
    found = partial_rank_correlation(replace(findings, numbers=numbers), "a", "b", given="given")
    assert found.mean == pytest.approx(np.corrcoef(left)[0, 1])


def test_what_is_not_the_study_as_it_is_meant_is_said(made_up_measures: Callable[..., Findings]) -> None:
    text = _text(draw_measures(made_up_measures(1, deviations=["epochs 1 instead of 10"])))
    assert "This is not the study as it is meant: epochs 1 instead of 10." in text


def test_the_same_numbers_make_the_same_file(made_up_measures: Callable[..., Findings]) -> None:
    findings = made_up_measures(1)
    assert svg_text(draw_measures(findings)) == svg_text(draw_measures(findings))
