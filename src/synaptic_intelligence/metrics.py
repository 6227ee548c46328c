"""The accuracy matrix R[i, j], and what is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import final

__all__ = ["AccuracyMatrix"]


@final
class AccuracyMatrix:
    """R[i, j]: the accuracy (0 to 1) on the test data of task j after training on tasks 1 to i.

    One row is recorded after each task, with the accuracy on all tasks, those not yet learnt included. In the
    formulas below tasks count from 1, and T is the number of rows recorded, that is of tasks learnt.

    Raises:
        ValueError: there is no task.

    Example:
        >>> matrix = AccuracyMatrix(["first", "second"])
        >>> matrix.record([1.0, 0.5])   # after the first task
        >>> matrix.record([0.75, 1.0])  # after the second
        >>> matrix.average_accuracy(), matrix.forgetting()
        (0.875, 0.25)
    """

    def __init__(self, task_names: Sequence[str]) -> None:
        if not task_names:
            raise ValueError("task_names must name at least one task")
        self._task_names = tuple(task_names)
        self._rows: list[list[float]] = []

    @classmethod
    def from_rows(cls, task_names: Sequence[str], rows: Sequence[Sequence[float]]) -> AccuracyMatrix:
        """Return a matrix with the given rows, one for each task learnt so far, in that order.

        Raises:
            ValueError: as for ``record``.

        Example:
            >>> AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.5], [0.75, 1.0]]).backward_transfer()
            -0.25
        """
        matrix = cls(task_names)
        for row in rows:
            matrix.record(row)
        return matrix

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in the order in which they are learnt.

        Example:
            >>> AccuracyMatrix(["first", "second"]).task_names
            ('first', 'second')
        """
        return self._task_names

    @property
    def rows(self) -> list[list[float]]:
        """A copy of the rows recorded so far: ``rows[i][j]`` is R[i + 1, j + 1].

        Example:
            >>> AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.5]]).rows
            [[1.0, 0.5]]
        """
        return [list(row) for row in self._rows]

    def record(self, row: Sequence[float]) -> None:
        """Add the accuracies on all tasks, measured after training on the next one.

        Raises:
            ValueError: the row is not one accuracy in [0, 1] per task, or there is a row for each task
            already.

        Example:
            >>> matrix = AccuracyMatrix(["first", "second"])
            >>> matrix.record([1.0, 0.5])
            >>> len(matrix.rows)
            1
        """
        if len(self._rows) == len(self._task_names):
            raise ValueError(f"all {len(self._task_names)} tasks have a row; a new run needs a new matrix")
        self._rows.append(self._accuracies("row", row))

    def average_accuracy(self, after: int | None = None) -> float:
        """Return the mean accuracy on the tasks learnt so far: the mean of R[T, j] over j = 1 to T.

        T is ``after``, by default the number of rows recorded.

        Raises:
            ValueError: no row is recorded, or ``after`` is not between 1 and the number of rows.

        Source: Lopez-Paz & Ranzato 2017, *Gradient Episodic Memory*, section 2 (ACC).

        Example:
            >>> matrix = AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.5], [0.75, 1.0]])
            >>> matrix.average_accuracy(after=1), matrix.average_accuracy()
            (1.0, 0.875)
        """
        self._need_rows("average accuracy", 1)
        learnt = len(self._rows) if after is None else after
        if not 1 <= learnt <= len(self._rows):
            raise ValueError(f"after must be from 1 to {len(self._rows)}, the rows recorded, not {after}")
        return fmean(self._rows[learnt - 1][:learnt])

    def forgetting(self) -> float:
        """Return how far accuracy fell below the best it ever was, as a mean over the tasks j = 1 to T - 1.

        Of each task that is the maximum of R[l, j] over l = 1 to T - 1, minus R[T, j]. The mean lies between
        -1 and 1; above zero something was forgotten.

        Raises:
            ValueError: fewer than two rows are recorded.

        Source: Chaudhry, Dokania, Ajanthan & Torr 2018, *Riemannian Walk*, forgetting measure (F).

        Example:
            >>> AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.5], [0.75, 1.0]]).forgetting()
            0.25
        """
        self._need_rows("forgetting", 2)
        *before, last = self._rows
        return fmean(max(row[j] for row in before) - last[j] for j in range(len(before)))

    def backward_transfer(self) -> float:
        """Return what later tasks did to earlier ones: the mean of R[T, j] - R[j, j] over j = 1 to T - 1.

        It lies in [-1, 1]; below zero something was forgotten.

        Raises:
            ValueError: fewer than two rows are recorded.

        Source: Lopez-Paz & Ranzato 2017, *Gradient Episodic Memory*, section 2 (BWT).

        Example:
            >>> AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.5], [0.75, 1.0]]).backward_transfer()
            -0.25
        """
        self._need_rows("backward transfer", 2)
        *before, last = self._rows
        return fmean(last[j] - row[j] for j, row in enumerate(before))

    def forward_transfer(self, baseline: Sequence[float]) -> float:
        """Return what earlier tasks did for later ones, before these were learnt.

        That is the mean of R[j - 1, j] - b[j] over the tasks j = 2 to T. ``baseline`` is b: the accuracy of
        the UNTRAINED network on each task (neither chance nor the accuracy of a network trained on that task
        alone).

        Raises:
            ValueError: fewer than two rows are recorded, or ``baseline`` is not one accuracy per task.

        Source: Lopez-Paz & Ranzato 2017, *Gradient Episodic Memory*, section 2 (FWT).

        Example:
            >>> matrix = AccuracyMatrix.from_rows(["first", "second"], [[1.0, 0.75], [0.75, 1.0]])
            >>> matrix.forward_transfer(baseline=[0.5, 0.5])
            0.25
        """
        self._need_rows("forward transfer", 2)
        untrained = self._accuracies("baseline", baseline)
        return fmean(self._rows[j - 1][j] - untrained[j] for j in range(1, len(self._rows)))

    def _accuracies(self, parameter: str, values: Sequence[float]) -> list[float]:
        tasks = len(self._task_names)
        if len(values) != tasks:
            raise ValueError(f"{parameter} must have one accuracy per task, {tasks}, not {len(values)}")
        for name, value in zip(self._task_names, values, strict=True):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{parameter}: the accuracy on task {name!r} must be in [0, 1], not {value}")
        return [float(value) for value in values]

    def _need_rows(self, measure: str, rows: int) -> None:
        if len(self._rows) < rows:
            raise ValueError(f"{measure} needs at least {rows} row(s), and {len(self._rows)} are recorded")
