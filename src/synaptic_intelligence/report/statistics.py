"""What a result says in numbers: for each strength, means over the seeds and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scipy.special import stdtrit

from synaptic_intelligence.metrics import AccuracyMatrix
from synaptic_intelligence.result import APART, AT_ONCE, Result, Run


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
    """The complete runs of one method, over their seeds.

    Args:
        method, c: the method and its strength, as in the result's ``Run``.
        seeds: number of complete runs.
        final: accuracy on each task at the end, fractions.
        average: mean accuracy on all tasks at the end, a fraction.
        curves: ``curves[j][k]`` is the accuracy on task j after k more tasks were learnt, fractions; none for a method
            that learns all tasks at once, and likewise the average curve.
        average_curve: mean accuracy on the tasks learnt so far, after each task, fractions.
        forgetting: mean forgetting after the last task, a difference of fractions; None where nothing can be forgotten:
            of one task alone, of all tasks at once, and of a network of its own for each.
        backward_transfer: mean backward transfer, likewise.
    """

    method: str
    c: float | None
    seeds: int
    final: list[Estimate]
    average: Estimate
    curves: list[list[Estimate]]
    average_curve: list[Estimate]
    forgetting: Estimate | None
    backward_transfer: Estimate | None

    @property
    def just_learnt(self) -> list[Estimate]:
        """Accuracy on each task when it has just been learnt, fractions; none for a method that learns all at once."""
        return [curve[0] for curve in self.curves]


def summarize(result: Result) -> list[Summary]:
    """Return one summary for each method that has a complete run: synapses, the weakest first, then their rivals.

    Example:
        >>> run = Run(seed=0, method="si", c=1.0, accuracy=[[0.9, 0.5], [0.8, 1.0]], baseline=[0.5, 0.5],
        ...           task_seconds=[1.0, 1.0], train_accuracy=[1.0, 1.0])
        >>> result = Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1", "2 or 3"], runs=[run], planned_runs=1, environment={},
        ...     command="synaptic run", started="2025-01-31T12:00:00+00:00", wall_seconds=2.0, chance=0.5)
        >>> [(summary.c, str(summary.average)) for summary in summarize(result)]
        [(1.0, '0.900')]
    """
    runs: dict[tuple[str, float | None], list[Run]] = {}
    for run in result.complete_runs:
        runs.setdefault((run.method, run.c), []).append(run)
    # sorted() keeps the order of what is equal: rivals stay as they were run.
    order = sorted(runs, key=lambda key: (key[0] != "si", key[1] if key[0] == "si" else 0.0))
    return [_summary(runs[key], result.task_names) for key in order]


def _summary(runs: list[Run], names: list[str]) -> Summary:
    tasks = range(len(names))
    in_turn = runs[0].method != AT_ONCE
    # A network of its own for each task has nothing to forget.
    several = in_turn and len(names) > 1 and runs[0].method != APART
    final = [mean_and_interval([run.accuracy[-1][j] for run in runs]) for j in tasks]
    matrices = [AccuracyMatrix.from_rows(names, run.accuracy) for run in runs] if in_turn else []
    return Summary(
        method=runs[0].method,
        c=runs[0].c,
        seeds=len(runs),
        final=final,
        average=mean_and_interval([statistics.fmean(run.accuracy[-1]) for run in runs]),
        curves=[[mean_and_interval([run.accuracy[i][j] for run in runs]) for i in tasks[j:]] for j in tasks if in_turn],
        average_curve=[mean_and_interval([m.average_accuracy(i + 1) for m in matrices]) for i in tasks if in_turn],
        forgetting=mean_and_interval([m.forgetting() for m in matrices]) if several else None,
        backward_transfer=mean_and_interval([m.backward_transfer() for m in matrices]) if several else None,
    )
