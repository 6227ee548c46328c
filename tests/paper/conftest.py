"""Findings of importance-measures that no study has made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.importance_measures import MEASURES
from synaptic_intelligence.findings import Findings

_LAYERS = ("0.weight", "2.weight", "4.weight", "all weights")


@pytest.fixture
def made_up_measures() -> Callable[..., Findings]:
    return _measures


def _measures(seeds: int, *, deviations: list[str] | None = None) -> Findings:
    """Return findings in which any two measures have the rank correlation 0.5 and 0.7 in turn."""
    matrices: list[JSON] = [
        [[1.0 if a == b else (0.5, 0.7)[seed % 2] for b in MEASURES] for a in MEASURES] for seed in range(seeds)
    ]
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
            "spearman": {layer: matrices for layer in _LAYERS},
            "test_accuracy": [0.95] * seeds,
            "fisher_against_hessian": [1e-6 * (1 + 2 * seed) for seed in range(seeds)],
            "scatter": {measure: [0.1, 0.2, 0.0] for measure in MEASURES},
        },
        environment={"torch": "2.13.0", "device_name": "a machine"},
        command="synaptic run importance-measures",
        started="2025-01-31T12:00:00+00:00",
        wall_seconds=90.0,
    )
