"""What a result says in numbers: for each strength, means over the seeds and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scipy.special import stdtrit

from synaptic_intelligence.metrics import AccuracyMatrix
from synaptic_intelligence.result import Result, Run


@final
@dataclass(frozen=True)
class Estimate:
    """A mean, and half the width of its 95 % interval (None where there was one value).

    Example:
        >>> str(Estimate(0.984, 0.0021)), str(Estimate(0.984, None))
        ('0.984 ± 0.002', '0.984')
    """

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        # "z" turns -0.000 into 0.000.
        interval = "" if self.half_width is None else f" ± {self.half_width:.3f}"
        return f"{self.mean:z.3f}{interval}"


def mean_and_interval(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values and its 95 % interval by Student's t.

    The interval is mean ± half_width; it supposes values that are normally distributed, and takes their spread from
    the values themselves: half_width = t(0.975, n - 1) s / sqrt(n). One value tells nothing of the spread: no interval.

    Raises:
        ValueError: ``values`` is empty.

    Source: Student, *The Probable Error of a Mean*, Biometrika 1908.

    Example:
        >>> str(mean_and_interval([0.97, 0.98, 0.99]))
        '0.980 ± 0.025'
    """
    if not values:
        raise ValueError("values: expected at least one value, got none")
    n, mean = len(values), statistics.fmean(values)
    return Estimate(mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None)


@final
@dataclass(frozen=True)
class Summary:
    """The complete runs of one strength, over their seeds.

    Args:
        c: the strength.
        seeds: number of complete runs.
        curves: ``curves[j][k]`` is the accuracy on task j after k more tasks were learnt, fractions.
        average_curve: mean accuracy on the tasks learnt so far, after each task, fractions.
        forgetting: mean forgetting after the last task, a difference of fractions; None if there is one task alone.
        backward_transfer: mean backward transfer, likewise.
    """

    c: float
    seeds: int
    curves: list[list[Estimate]]
    average_curve: list[Estimate]
    forgetting: Estimate | None
    backward_transfer: Estimate | None


def summarize(result: Result) -> list[Summary]:
    """Return one summary for each strength that has a complete run, the weakest first.

    Example:
        >>> run = Run(seed=0, c=1.0, accuracy=[[0.9, 0.5], [0.8, 1.0]], baseline=[0.5, 0.5],
        ...           task_seconds=[1.0, 1.0], train_accuracy=[1.0, 1.0])
        >>> result = Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1", "2 or 3"], runs=[run], planned_runs=1, environment={},
        ...     command="synaptic run", started="2025-01-31T12:00:00+00:00", wall_seconds=2.0, chance=0.5)
        >>> [(summary.c, str(summary.average_curve[-1])) for summary in summarize(result)]
        [(1.0, '0.900')]
    """
    runs = result.complete_runs
    return [_summary(c, [r for r in runs if r.c == c], result.task_names) for c in sorted({run.c for run in runs})]


def _summary(c: float, runs: list[Run], names: list[str]) -> Summary:
    tasks = range(len(names))
    several = len(names) > 1
    matrices = [AccuracyMatrix.from_rows(names, run.accuracy) for run in runs]
    return Summary(
        c=c,
        seeds=len(runs),
        curves=[[mean_and_interval([run.accuracy[i][j] for run in runs]) for i in tasks[j:]] for j in tasks],
        average_curve=[mean_and_interval([m.average_accuracy(after=i + 1) for m in matrices]) for i in tasks],
        forgetting=mean_and_interval([m.forgetting() for m in matrices]) if several else None,
        backward_transfer=mean_and_interval([m.backward_transfer() for m in matrices]) if several else None,
    )
