from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from synaptic_intelligence.report.statistics import Estimate, mean_and_interval, summarize
from synaptic_intelligence.result import Result


def test_one_value_has_no_interval() -> None:
    assert mean_and_interval([0.7]) == Estimate(0.7, None)


def test_two_values_by_hand() -> None:
    # t(0.975, 1) = tan(0.475 pi), for Student's t with one degree of freedom is Cauchy's distribution; here s / sqrt(2)
    # is half the difference.
    estimate = mean_and_interval([0.6, 0.8])
    assert estimate.mean == pytest.approx(0.7, rel=1e-12)
    assert estimate.half_width == pytest.approx(0.1 * math.tan(0.475 * math.pi), rel=1e-9)


@pytest.mark.parametrize(("count", "t"), [(3, 4.302653), (5, 2.776445), (10, 2.262157), (31, 2.042272)])
def test_interval_uses_the_tabulated_t(count: int, t: float) -> None:
    values = [float(i) for i in range(count)]
    # The variance of 0 ... n - 1, with n - 1 in the denominator, is n (n + 1) / 12.
    expected = t * math.sqrt(count * (count + 1) / 12 / count)
    half_width = mean_and_interval(values).half_width
    assert half_width == pytest.approx(expected, rel=1e-6)


def test_equal_values_have_an_interval_of_zero() -> None:
    assert mean_and_interval([0.25, 0.25, 0.25]) == Estimate(0.25, 0.0)


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="values: expected at least one value, got none"):
        mean_and_interval([])


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.98449, 0.00151), "0.984 ± 0.002"),
        (Estimate(0.5, None), "0.500"),
        (Estimate(-0.1234, 0.01), "-0.123 ± 0.010"),
        (Estimate(-0.0001, 0.0), "0.000 ± 0.000"),
    ],
)
def test_estimate_is_written_with_three_decimals(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_summary_of_made_up_runs_by_hand(make_result: Callable[..., Result]) -> None:
    without, with_synapses = summarize(make_result(tasks=3, seeds=3))
    assert (without.c, with_synapses.c) == (0.0, 1.0)
    assert without.seeds == with_synapses.seeds == 3
    # Each later task costs 0.1, 0.2 and 0.3 in the three seeds: 0.2 on average.
    assert [[round(e.mean, 12) for e in curve] for curve in without.curves] == [[1.0, 0.8, 0.6], [1.0, 0.8], [1.0]]
    assert [round(e.mean, 12) for e in without.average_curve] == [1.0, 0.9, 0.8]
    assert without.forgetting is not None
    assert without.backward_transfer is not None
    assert without.forgetting.mean == pytest.approx(0.3)
    assert without.backward_transfer.mean == pytest.approx(-0.3)
    # Seeds 0.9, 0.8 and 0.7: s = 0.1.
    assert without.average_curve[-1].half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_unfinished_runs_are_left_out(make_result: Callable[..., Result]) -> None:
    summaries = summarize(make_result(seeds=3, unfinished=1))
    assert [(summary.c, summary.seeds) for summary in summaries] == [(0.0, 3), (1.0, 2)]
    # The unfinished one is of seed 2; seeds 0 and 1 cost 0.01 and 0.02 for each later task, two of them on average.
    assert summaries[1].average_curve[-1].mean == pytest.approx(1 - 0.015 * 2)


def test_a_strength_without_a_complete_run_is_absent(make_result: Callable[..., Result]) -> None:
    assert [s.c for s in summarize(make_result(seeds=1, unfinished=1))] == [0.0]
    assert summarize(make_result(seeds=1, unfinished=2)) == []


def test_one_task_has_no_forgetting(make_result: Callable[..., Result]) -> None:
    summary = summarize(make_result(tasks=1))[0]
    assert summary.forgetting is None
    assert summary.backward_transfer is None
    assert summary.average_curve[-1].mean == 1.0


def test_rivals_come_after_the_synapses_in_the_order_of_their_runs(make_result: Callable[..., Result]) -> None:
    rivals = (("joint", None), ("ewc", 30.0), ("scratch", None), ("ewc", 3.0), ("sgd-dropout", None))
    summaries = summarize(make_result(strengths=(1.0, 0.0, 0.1), rivals=rivals))
    assert [(s.method, s.c) for s in summaries] == [("si", 0.0), ("si", 0.1), ("si", 1.0), *rivals]
    assert [s.seeds for s in summaries] == [3] * 8


def test_all_tasks_at_once_have_no_course_and_forget_nothing_that_could_be_told(
    make_result: Callable[..., Result],
) -> None:
    # Tasks cost 1, 2 and 3 % in seed 0, twice as much in seed 1: 0.985, 0.97 and 0.955 on average.
    (joint,) = summarize(make_result(tasks=3, strengths=(), rivals=(("joint", None),), seeds=2))
    assert [estimate.mean for estimate in joint.final] == pytest.approx([0.985, 0.97, 0.955])
    assert joint.average.mean == pytest.approx(0.97)
    # Seeds 0.98 and 0.96: half the difference times t(0.975, 1).
    assert joint.average.half_width == pytest.approx(0.01 * math.tan(0.475 * math.pi), rel=1e-9)
    assert (joint.curves, joint.average_curve) == ([], [])
    assert (joint.forgetting, joint.backward_transfer) == (None, None)


def test_the_average_is_that_after_the_last_task_for_every_method(make_result: Callable[..., Result]) -> None:
    rivals = (("ewc", 30.0), ("sgd-dropout", None), ("scratch", None))
    for summary in summarize(make_result(tasks=3, rivals=rivals)):
        assert summary.average == summary.average_curve[-1]
        assert summary.final == [curve[-1] for curve in summary.curves]


def test_an_unfinished_rival_is_left_out(make_result: Callable[..., Result]) -> None:
    # The last run is that of seed 1 of all tasks at once, which has no row before its end.
    result = make_result(rivals=(("joint", None),), seeds=2, unfinished=1)
    assert [(s.method, s.seeds) for s in summarize(result)] == [("si", 2), ("si", 2), ("joint", 1)]
    assert result.runs[-1].accuracy == []
