"""Made-up results for the reports' tests: no network is trained, the accuracies follow from a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from synaptic_intelligence.result import Result, Run

MakeResult: TypeAlias = Callable[..., Result]


def made_up_run(seed: int, c: float | None, tasks: int, rows: int, method: str = "si") -> Run:
    """Accuracy 1 on a task when it is learnt, and each later task costs (seed + 1) % of it, ten times as much at c = 0.

    A task that is not yet learnt is at 0.5. All at once, each task costs (seed + 1) % more than the one before it.
    """
    loss = (seed + 1) * (0.1 if c == 0 else 0.01)
    matrix = [[max(0.0, 1 - loss * (i - j)) if j <= i else 0.5 for j in range(tasks)] for i in range(rows)]
    if method == "joint":
        matrix = [[1 - loss * (j + 1) for j in range(tasks)]] if rows == tasks else []
    return Run(
        seed=seed,
        method=method,
        c=c,
        accuracy=matrix,
        baseline=[0.5] * tasks,
        task_seconds=[2.0] * len(matrix),
        train_accuracy=[1.0] * len(matrix),
    )


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """A function that makes a result; by default the protocol, complete, five tasks, c of 0 and 1, three seeds."""

    def make(
        *,
        tasks: int = 5,
        strengths: Sequence[float] = (0.0, 1.0),
        rivals: Sequence[tuple[str, float | None]] = (),
        seeds: int = 3,
        unfinished: int = 0,
        **changes: Any,
    ) -> Result:
        methods = [*(("si", c) for c in strengths), *rivals]
        runs = [made_up_run(seed, c, tasks, tasks, method) for seed in range(seeds) for method, c in methods]
        for i in range(1, unfinished + 1):
            runs[-i] = made_up_run(runs[-i].seed, runs[-i].c, tasks, tasks // 2, runs[-i].method)
        fields: dict[str, Any] = {
            "experiment": "split-mnist",
            "title": "Split MNIST",
            "settings": {"batch_size": 64, "hidden": [256, 256], "note": "<script>alert('settings')</script>"},
            "deviations": [],
            "task_names": [f"{2 * i} or {2 * i + 1}" for i in range(tasks)],
            "runs": runs,
            "planned_runs": len(runs),
            "environment": {"torch": "2.13.0", "threads": 2},
            "command": "synaptic run split-mnist --seeds 3",
            "started": "2025-01-31T12:00:00+00:00",
            "wall_seconds": 96.0,
            "chance": 0.5,
        }
        return Result(**{**fields, **changes})

    return make
