"""A search for a strength: one figure and one table of all its results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import RESULT, run

from synaptic_intelligence.document import ResultError
from synaptic_intelligence.paper.page import write_paper
from synaptic_intelligence.paper.search import draw_search, said_of_search, search_rows, searched, smallest
from synaptic_intelligence.paper.sections import SECTIONS
from synaptic_intelligence.result import Result, write_result

SHORT = replace(RESULT, experiment="permuted-mnist", deviations=["3 tasks instead of 10"], planned_runs=3)
EWC = replace(
    SHORT,
    settings={"epochs": 5, "fisher_images": 128, "sgd-dropout": "in other words"},
    deviations=["3 tasks instead of 10", "Fisher from 128 images instead of our 1024"],
    runs=[
        run(0, "si", 0.0, last=[0.5, 0.9]),
        run(0, "ewc", 100.0, last=[0.9, 0.9005]),
        run(0, "ewc", 10.0, last=[0.9, 0.9]),
    ],
)
SI = replace(
    SHORT,
    settings={"epochs": 5, "fisher_images": 1024, "keep_step_count": False},
    runs=[run(0, "si", 1.0, last=[0.9, 0.98]), run(0, "si", 0.1, last=[0.7, 0.9]), run(0, "si", 3.0, last=[0.8, 0.9])],
)


def test_strengths_of_all_results_are_in_order() -> None:
    found = searched([SI, EWC])
    assert [(s.method, s.c) for s in found] == [
        ("si", 0.0),
        ("si", 0.1),
        ("si", 1.0),
        ("si", 3.0),
        ("ewc", 10.0),
        ("ewc", 100.0),
    ]


def test_the_smallest_strength_that_is_good_is_taken() -> None:
    found = searched([SI, EWC])
    assert (smallest(found, "si"), smallest(found, "ewc")) == (1.0, 10.0)
    rows = [(row.what, row.ours) for row in search_rows([SI, EWC])]
    assert rows[0] == ("average accuracy, without synapses (c = 0)", "0.700 (1 seed)")
    assert rows[-2:] == [
        ("smallest strength within 0.001 of the best, synaptic intelligence", "1"),
        ("smallest strength within 0.001 of the best, EWC, and the best is the largest that was tried", "10"),
    ]


def test_what_older_results_say_in_other_words_is_said_once() -> None:
    older = replace(
        EWC, deviations=["3 tasks instead of 10", "Fisher from 128 images"], started="2025-01-01T00:00:00+00:00"
    )
    newer = replace(EWC, runs=[run(0, "ewc", 1000.0, last=[0.9, 0.9])], started="2026-01-01T00:00:00+00:00")
    said = "This is not the paper's protocol: 3 tasks instead of 10; Fisher from 128 images instead of our 1024."
    for results in ([older, newer], [newer, SI, older]):
        assert [text for text in said_of_search(results) if "protocol" in text] == [said]


def test_a_strength_of_one_seed_has_no_interval_beside_one_of_several() -> None:
    """In any number of strengths and at any place."""
    runs = [run(seed, "si", c, last=[0.8 + 0.1 * seed, 0.9]) for c in (0.1, 1.0, 3.0) for seed in (0, 1)]
    for missing in range(6):
        result = replace(SI, runs=[each for i, each in enumerate(runs) if i != missing])
        (ax,) = draw_search([result]).axes
        bars = ax.containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
        drawn = [len(segment) > 0 and bool(np.isfinite(segment).all()) for segment in bars]
        assert drawn == [c != missing // 2 for c in range(3)]


def test_each_method_has_its_line_and_the_network_without_synapses_its_level() -> None:
    figure = draw_search([SI, EWC])
    (ax,) = figure.axes
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    synapses, ewc = (container.lines[0] for container in ax.containers)  # type: ignore[attr-defined]
    np.testing.assert_allclose(synapses.get_xydata(), [[0.1, 0.8], [1, 0.94], [3, 0.85]])
    np.testing.assert_allclose(ewc.get_xydata(), [[10, 0.9], [100, 0.90025]])
    assert lines["without synapses (c = 0)"].get_ydata()[0] == 0.7  # type: ignore[index]
    assert ax.get_xscale() == "log"
    figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = [label.get_text() for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert ticks == ["0.1", "1", "10", "100"]
    shown = " ".join(text.get_text() for text in figure.texts)
    assert shown.count("not the paper's protocol") == 1
    assert "3 tasks instead of 10; Fisher from 128 images" in shown.replace("\n", " ")


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (replace(SI, settings={"epochs": 6, "fisher_images": 1024}), "must have the same settings"),
        (replace(SI, settings={"epochs": 5, "keep_step_count": True}), "must have the same settings"),
        (replace(SI, experiment="split-mnist"), "must have the same settings"),
        (replace(SI, settings={**SI.settings, "network": "another"}), "must have the same settings"),
        (replace(SI, environment={**SI.environment, "torch": "2.14"}), "must have the same settings"),
        (replace(EWC, settings={"epochs": 5, "fisher_images": 64}), "must have the same settings"),
        (replace(SI, runs=EWC.runs[:1]), "must have different strengths"),
    ],
)
def test_what_is_not_one_search_is_refused(other: Result, problem: str) -> None:
    with pytest.raises(ResultError, match=problem):
        draw_search([EWC, other])


def test_the_page_shows_a_search_after_the_runs_with_every_command(tmp_path: Path) -> None:
    paths = [tmp_path / f"permuted-mnist{end}.json" for end in ("", "-search-1", "-search-2", "-short")]
    other = replace(SI, command="synaptic run permuted-mnist --c 7")
    for path, result in zip(paths, (SI, EWC, other, SI), strict=True):
        write_result(result, path)
    page, *figures = write_paper(SECTIONS, {"permuted-mnist": paths}, tmp_path / "docs", results="../")
    text = page.read_text("utf-8")
    assert {path.name for path in figures} >= {"permuted-mnist-search.svg", "permuted-mnist-short.svg"}
    assert text.index("figures/permuted-mnist-short.svg") < text.index("figures/permuted-mnist-search.svg")
    assert text.index("(../permuted-mnist-search-1.json)") < text.index("(../permuted-mnist-search-2.json)")
    assert "`synaptic run permuted-mnist --c 7`" in text
