"""Results and findings that no experiment has made, for tests of what is shown."""

from __future__ import annotations

from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.importance_measures import MEASURES
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.result import Result, Run

RESULT = Result(
    experiment="split-mnist",
    title="Split MNIST",
    settings={"epochs": 10},
    deviations=[],
    task_names=["0/1", "2/3"],
    runs=[],
    planned_runs=1,
    environment={"torch": "2.13.0", "device_name": "a machine"},
    command="synaptic run split-mnist",
    started="2025-01-31T12:00:00+00:00",
    wall_seconds=90.0,
    chance=0.5,
)


def run(
    seed: int,
    method: str,
    c: float | None,
    *,
    last: list[float],
    train: list[float] | None = None,
    correlation: dict[str, list[list[float]]] | None = None,
) -> Run:
    """Return a complete run whose accuracies at the end are ``last``."""
    tasks = len(last)
    rows = [last] if method == "joint" else [[*last[: i + 1], *([0.1] * (tasks - i - 1))] for i in range(tasks)]
    return Run(
        seed=seed,
        method=method,
        c=c,
        accuracy=rows,
        baseline=[0.1] * tasks,
        task_seconds=[1.0] * len(rows),
        train_accuracy=[0.9] * len(rows),
        final_train_accuracy=train or [],
        path_correlation=correlation or {},
    )


def _matrix(value: float) -> JSON:
    return [[1.0 if a == b else value for b in MEASURES] for a in MEASURES]


_LAYERS = ("0.weight", "2.weight", "4.weight", "all weights")


def measures(seeds: int, *, deviations: list[str] | None = None) -> Findings:
    """Return findings in which any two measures have the rank correlation 0.5 and 0.7 in turn."""
    matrices: list[JSON] = [_matrix((0.5, 0.7)[seed % 2]) for seed in range(seeds)]
    # Of each layer other ones, so that no row can stand for another.
    by_layer: dict[str, JSON] = {
        layer: matrices if layer == "all weights" else [_matrix(0.1 * number)] * seeds
        for number, layer in enumerate(_LAYERS, 1)
    }
    live: dict[str, JSON] = {layer: [_matrix(-0.1 * number)] * seeds for number, layer in enumerate(_LAYERS, 1)}
    return Findings(
        experiment="importance-measures",
        title="Importance measures side by side",
        settings={"seeds": seeds},
        deviations=deviations or [],
        numbers={
            "measures": list(MEASURES),
            "compared": {layer: [200] * seeds for layer in _LAYERS},
            "left_out": {layer: [0] * seeds for layer in _LAYERS},
            "zero_fisher": {layer: [2] * seeds for layer in _LAYERS},
            "spearman": by_layer,
            "spearman_live": live,
            "units_off": [seed for seed in range(seeds)],
            "test_accuracy": [0.95] * seeds,
            "fisher_against_hessian": [1e-6 * (1 + 2 * seed) for seed in range(seeds)],
            "scatter": {measure: [0.1, 0.2, 0.0] for measure in MEASURES},
        },
        environment={"torch": "2.13.0", "device_name": "a machine"},
        command="synaptic run importance-measures",
        started="2025-01-31T12:00:00+00:00",
        wall_seconds=90.0,
    )
