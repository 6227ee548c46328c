"""Each measure against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from synaptic_intelligence.metrics import AccuracyMatrix

NAMES = ["first", "second", "third"]
ROWS = [
    [0.9, 0.5, 0.4],
    [0.7, 0.8, 0.6],
    [0.8, 0.4, 1.0],
]


def matrix(rows: list[list[float]] = ROWS) -> AccuracyMatrix:
    return AccuracyMatrix.from_rows(NAMES, rows)


def test_average_accuracy() -> None:
    assert matrix().average_accuracy(after=1) == pytest.approx(0.9)
    assert matrix().average_accuracy(after=2) == pytest.approx((0.7 + 0.8) / 2)
    assert matrix().average_accuracy(after=3) == pytest.approx((0.8 + 0.4 + 1.0) / 3)
    assert matrix().average_accuracy() == matrix().average_accuracy(after=3)
    assert matrix(ROWS[:2]).average_accuracy() == pytest.approx(0.75)


def test_forgetting_is_measured_from_the_best_before_the_last() -> None:
    # first: max(0.9, 0.7) - 0.8; second: max(0.5, 0.8) - 0.4
    assert matrix().forgetting() == pytest.approx((0.1 + 0.4) / 2)
    assert matrix(ROWS[:2]).forgetting() == pytest.approx(0.9 - 0.7)
    # The best may come after the task was learnt, and the last row may be better than all: first 0.9 - 0.95,
    # second 0.6 - 0.5.
    rows = [[0.6, 0.5, 0.0], [0.9, 0.6, 0.0], [0.95, 0.5, 0.7]]
    assert matrix(rows).forgetting() == pytest.approx((-0.05 + 0.1) / 2)


def test_backward_transfer_is_measured_from_the_diagonal() -> None:
    # first: 0.8 - 0.9; second: 0.4 - 0.8
    assert matrix().backward_transfer() == pytest.approx((-0.1 - 0.4) / 2)
    assert matrix(ROWS[:2]).backward_transfer() == pytest.approx(-0.2)
    rows = [[0.6, 0.5, 0.0], [0.9, 0.6, 0.0], [0.95, 0.5, 0.7]]
    assert matrix(rows).backward_transfer() == pytest.approx((0.35 - 0.1) / 2)


def test_forward_transfer_is_measured_from_the_untrained_network() -> None:
    # second, before it is learnt: 0.5 - 0.45; third: 0.6 - 0.3. The first counts for nothing.
    assert matrix().forward_transfer([0.9, 0.45, 0.3]) == pytest.approx((0.05 + 0.3) / 2)
    assert matrix(ROWS[:2]).forward_transfer([0.9, 0.45, 0.3]) == pytest.approx(0.05)


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_measures_that_need_two_tasks_refuse_fewer(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="forgetting needs at least 2 row"):
        matrix(rows).forgetting()
    with pytest.raises(ValueError, match="backward transfer needs at least 2 row"):
        matrix(rows).backward_transfer()
    with pytest.raises(ValueError, match="forward transfer needs at least 2 row"):
        matrix(rows).forward_transfer([0.5, 0.5, 0.5])


def test_average_accuracy_needs_a_row() -> None:
    with pytest.raises(ValueError, match="average accuracy needs at least 1 row"):
        AccuracyMatrix(NAMES).average_accuracy()


@pytest.mark.parametrize("after", [0, -1, 3])
def test_average_accuracy_refuses_tasks_not_learnt(after: int) -> None:
    with pytest.raises(ValueError, match=f"after must be from 1 to 2, the rows recorded, not {after}"):
        matrix(ROWS[:2]).average_accuracy(after=after)


@pytest.mark.parametrize("bad", [-0.01, 1.01, 97.0, math.nan, math.inf])
def test_what_is_no_accuracy_is_refused_and_not_recorded(bad: float) -> None:
    accuracies = AccuracyMatrix(NAMES)
    with pytest.raises(ValueError, match=r"row: the accuracy on task 'second' must be in \[0, 1\], not"):
        accuracies.record([0.5, bad, 0.5])
    assert accuracies.rows == []
    with pytest.raises(ValueError, match=r"baseline: the accuracy on task 'second' must be in \[0, 1\], not"):
        matrix().forward_transfer([0.5, bad, 0.5])


@pytest.mark.parametrize("row", [[], [0.5, 0.5], [0.5] * 4])
def test_a_row_of_another_length_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match=f"row must have one accuracy per task, 3, not {len(row)}"):
        AccuracyMatrix(NAMES).record(row)
    with pytest.raises(ValueError, match=f"baseline must have one accuracy per task, 3, not {len(row)}"):
        matrix().forward_transfer(row)


def test_a_row_beyond_the_last_task_is_refused() -> None:
    with pytest.raises(ValueError, match="all 3 tasks have a row"):
        matrix().record([0.5, 0.5, 0.5])


def test_a_matrix_without_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="task_names must name at least one task"):
        AccuracyMatrix([])


def test_rows_are_copied_in_and_out() -> None:
    row = [0.0, 0.5, 1]
    accuracies = AccuracyMatrix(NAMES)
    accuracies.record(row)
    row[0] = 0.9
    accuracies.rows[0][1] = 0.9
    accuracies.rows.append([0.1, 0.1, 0.1])
    assert accuracies.rows == [[0.0, 0.5, 1.0]]
    assert all(type(value) is float for value in accuracies.rows[0])
    assert accuracies.task_names == ("first", "second", "third")
