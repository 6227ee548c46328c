"""What the paper reads from its figure 5, as numbers of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up import RESULT, run

from synaptic_intelligence.paper.correlations import between_tasks, correlation_rows
from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import mean_and_interval
from synaptic_intelligence.result import Result, Run, read_result

Matrix = list[list[float]]
COMMITTED = Path(__file__).parents[2] / "results" / "permuted-mnist.json"


def _run(seed: int, c: float, second: Matrix) -> Run:
    other = [[0.5] * i + [1.0] for i in range(len(second))]
    paths = {"0.weight": other, "2.weight": second, "4.weight": other}
    return run(seed, "si", c, last=[0.5] * len(second), correlation=paths)


def _result(*runs: Run) -> Result:
    names = [str(i) for i in range(len(runs[0].accuracy))]
    return replace(RESULT, task_names=names, runs=list(runs), planned_runs=len(runs))


def _readings(result: Result) -> list[Row]:
    """Those of the second layer."""
    return [row for row in correlation_rows(result) if row.difference and row.what.startswith("second layer")]


# Between neighbours 0.1, 0.2, 0.9 and 0.7; all others 0.3.
RISING = [[1.0], [0.1, 1.0], [0.3, 0.2, 1.0], [0.3, 0.3, 0.9, 1.0], [0.3, 0.3, 0.3, 0.7, 1.0]]
FLAT = [[0.2] * i + [1.0] for i in range(5)]


def test_correlations_are_means_over_pairs_and_then_over_seeds() -> None:
    three = {"0.weight": [[1.0], [0.1, 1.0], [0.2, 0.6, 1.0]]}
    other = {"0.weight": [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0]]}
    runs = [run(seed, "si", 0.1, last=[0.5] * 3, correlation=m) for seed, m in enumerate((three, other))]
    found = between_tasks(_result(*runs))
    assert [e.mean for e in found["si", 0.1]] == pytest.approx([0.15])


def test_each_of_the_three_readings_has_its_number_and_its_verdict() -> None:
    rows = correlation_rows(_result(_run(0, 0.0, RISING), _run(0, 0.1, FLAT)))
    assert [(r.expected, r.ours, r.difference) for r in rows[:5]] == [
        ("above 0", "0.650 (1 seed)", "agrees, one seed"),  # (0.9 + 0.7) / 2 - (0.1 + 0.2) / 2
        ("-", "0.000 (1 seed)", ""),  # what consolidation makes of it
        ("below 0", "-0.700 (1 seed)", "agrees, one seed"),  # 0.2 - 0.9
        ("below 0", "-0.275 (1 seed)", "agrees, one seed"),  # 0.2 - (0.1 + 0.2 + 0.9 + 0.7) / 4
        ("below 0", "-0.170 (1 seed)", "agrees, one seed"),  # 0.2 - (1.9 + 6 * 0.3) / 10
    ]
    first = [r for r in rows if r.what.startswith("first layer, mean")]
    assert [(r.expected, r.ours) for r in first] == [("near 0", "0.500 (1 seed)")] * 2


@pytest.mark.parametrize(
    ("second", "ours", "verdict"),
    [(RISING, "0.130", "disagrees, one seed"), ([[0.9] * i + [1.0] for i in range(5)], "-0.400", "agrees, one seed")],
)
def test_the_first_layer_is_less_alike_than_the_second_or_that_is_said(second: Matrix, ours: str, verdict: str) -> None:
    (row,) = (row for row in correlation_rows(_result(_run(0, 0.0, second))) if "less second layer" in row.what)
    assert (row.expected, row.ours, row.difference) == ("below 0", f"{ours} (1 seed)", verdict)


def test_runs_of_different_first_tasks_are_no_pair() -> None:
    held = _run(0, 0.1, RISING)
    other = replace(held, accuracy=[[0.4, *held.accuracy[0][1:]], *held.accuracy[1:]])
    assert len(_readings(_result(_run(0, 0.0, FLAT), held))) == 4
    assert len(_readings(_result(_run(0, 0.0, FLAT), other))) == 1


def test_what_goes_the_other_way_is_said() -> None:
    rows = _readings(_result(_run(0, 0.0, FLAT), _run(0, 0.1, RISING)))
    # Flat paths do not become more alike: zero decides nothing.
    assert [r.difference for r in rows] == ["undecided", *["disagrees, one seed"] * 3]


def test_an_interval_that_holds_zero_decides_nothing() -> None:
    runs = [_run(0, 0.0, FLAT), _run(0, 0.1, RISING), _run(1, 0.0, RISING), _run(1, 0.1, FLAT)]
    rows = _readings(_result(*runs))
    assert [r.difference for r in rows] == ["undecided"] * 4
    assert rows[1].ours.endswith("(2 seeds)")


def test_seeds_are_compared_with_themselves_alone() -> None:
    rows = _readings(_result(_run(7, 0.0, FLAT[:3]), _run(8, 0.1, FLAT[:3]), _run(7, 0.1, RISING[:3])))
    assert [row.ours for row in rows] == ["0.100 (1 seed)", "-0.050 (1 seed)", "0.000 (1 seed)"]


def test_a_claim_about_two_strengths_needs_both() -> None:
    assert _readings(_result(_run(0, 0.1, RISING))) == []


def test_tasks_that_lie_far_apart_have_a_reading_of_their_own_where_there_are_enough() -> None:
    flat, rising = (
        [[0.2] * i + [1.0] for i in range(7)],
        [[0.1 * (i - j) for j in range(i)] + [1.0] for i in range(7)],
    )
    row = _readings(_result(_run(0, 0.0, flat), _run(0, 0.1, rising)))[3]
    # Five apart (twice) 0.5, six apart 0.6; all others 0.2.
    assert (row.ours, row.difference) == ("0.333 (1 seed)", "disagrees, one seed")


def test_the_committed_runs_say_what_the_page_says_of_them() -> None:
    """The words in the section "Differences" of the page; where this fails, they must change."""
    rows = correlation_rows(read_result(COMMITTED))
    claimed = [row for row in rows if row.what.startswith("second layer") and row.expected != "-"]
    verdicts = [*["agrees, one seed"] * 3, "disagrees, one seed", "undecided"]
    assert [row.difference for row in claimed] == verdicts
    shown = {row.what: float(row.ours.split()[0]) for row in rows}
    for c in ("0.01", "0.02"):
        near, far, every = (
            shown[f"second layer, {pairs}: c = {c} less c = 0"]
            for pairs in ("neighbouring tasks, mean", "tasks five or more apart, mean", "all pairs of tasks, mean")
        )
        assert shown["second layer, neighbouring tasks, mean: c = 0.1 less c = 0"] < near < 0 < every < far
        alike = [shown[f"second layer, the two tasks most alike: c = {each} less c = 0"] for each in (c, "0.1")]
        assert max(alike) < -0.05
    rises = [row for row in shown if "later half less earlier half" in row]
    free, weakest, weak, strong = (shown[row] for row in rises)
    assert strong < 0.4 * free < weak < 0.7 * free < 0.9 * free < weakest < free
    without, *held = [shown[what] for what in shown if what.startswith("first layer, mean")]
    assert without > max(held)
    (lower,) = (row for row in rows if row.what.startswith("first layer less second layer"))
    assert lower.difference == "agrees, one seed"


def test_a_second_seed_says_what_the_page_says_of_it() -> None:
    """The words below its numbers; where this fails, they must change."""
    first, second = (
        {row.what: float(row.ours.split()[0]) for row in correlation_rows(read_result(of)) if "less c = 0" in row.what}
        for of in (COMMITTED, COMMITTED.with_name("permuted-mnist-seed-1.json"))
    )
    pairs = {what: (first[what], second[what]) for what in second if "c = 0.1 " in what}
    assert len(pairs) == 4
    alike, near, far, every = pairs.values()
    assert max(alike) < 0
    assert max(near) < 0
    assert min(far) > 0
    assert every[0] == 0.0
    assert every[1] < 0
    weak = {what: (first[what], second[what]) for what in second if "c = 0.02 " in what}
    away = [what for what, values in {**pairs, **weak}.items() if _excludes_zero(values)]
    assert away == [next(what for what in weak if words in what) for words in ("most alike", "apart")]
    assert [second[what] > 0 for what in away] == [False, True]


def _excludes_zero(values: tuple[float, float]) -> bool:
    estimate = mean_and_interval(values)
    assert estimate.half_width is not None
    return abs(estimate.mean) > estimate.half_width
