"""Where gradient descent with a pull begins to diverge: the formula, the step's eigenvalues, and torch's SGD itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.stability import Stiffest, stability_bound, stiffest

SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.7},
    {"momentum": 0.9},
    {"momentum": 0.9, "maximize": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.9, "dampening": 0.9, "weight_decay": 0.7},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.3, "nesterov": True, "weight_decay": 0.7},
]


def found(omega: torch.Tensor, c: Any, **options: Any) -> Stiffest:
    p = torch.nn.Parameter(torch.ones_like(omega))
    result = stiffest(Binding({"w": p}, torch.optim.SGD([p], **options)), {"w": omega}, lambda group, names: c)
    assert result is not None
    return result


def grows(h: float, steps: int = 1000, **options: Any) -> bool:
    """Whether torch's SGD moves away from 0 on the loss h x^2 / 2, whose gradient is h x."""
    x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], **options)
    largest = []
    for _ in range(steps):
        x.grad = (-h if options.get("maximize") else h) * x.detach()
        optimizer.step()
        largest.append(abs(x.item()))
        if largest[-1] > 1e6:
            return True
    return max(largest[-100:]) > max(largest[100:200])


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_torchs_own_sgd_diverges_just_above_the_bound_and_not_below(options: dict[str, Any]) -> None:
    lr, omega = 0.05, 3.0
    told = found(torch.tensor([omega]), 1.0, lr=lr, **options)
    largest_c = told.largest_times  # times c = 1
    assert not grows(2 * 0.995 * largest_c * omega, lr=lr, **options)
    assert grows(2 * 1.005 * largest_c * omega, lr=lr, **options)
    assert not grows(2 * omega, lr=0.995 * told.largest_lr, **options)
    assert grows(2 * omega, lr=1.005 * told.largest_lr, **options)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_bound_is_where_the_spectral_radius_of_a_step_passes_one(nesterov: bool) -> None:
    for m in np.linspace(0.01, 0.99, 50):
        bound = stability_bound(float(m), nesterov=nesterov)
        for rate, stable in ((0.01 * bound, True), (0.5 * bound, True), (0.999 * bound, True), (1.001 * bound, False)):
            # (x, b) after one step at curvature 1.
            buffer = np.array([1.0, m])
            step = np.array([1.0, m * m]) + np.array([m, 0.0]) if nesterov else buffer
            matrix = np.array([np.array([1.0, 0.0]) - rate * step, buffer])
            assert (np.abs(np.linalg.eigvals(matrix)).max() < 1) == stable, (m, rate)


def test_the_ratio_is_rate_times_curvature_over_the_bound() -> None:
    omega = torch.tensor([[0.5, 30.0], [2.0, 0.0]])
    told = found(omega, 0.25, lr=0.1, weight_decay=1.0, momentum=0.5, dampening=0.2)
    assert told.ratio == pytest.approx(0.1 * 0.8 * (2 * 0.25 * 30 + 1.0) / 3.0, rel=1e-6)
    assert (told.lr, told.c) == (0.1, 0.25)


def test_dampening_without_momentum_is_none() -> None:
    assert found(torch.ones(1), 1.0, lr=0.5, dampening=0.9).ratio == pytest.approx(0.5)


def test_a_weight_decay_that_diverges_by_itself_leaves_no_room_for_c() -> None:
    assert found(torch.ones(1), 1.0, lr=1.0, weight_decay=3.0).largest_times == 0.0


def test_a_rate_of_zero_diverges_at_no_strength() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    assert stiffest(Binding({"w": p}, torch.optim.SGD([p], lr=0.0)), {"w": torch.ones(1)}, lambda *_: 1.0) is None


def test_every_group_counts_with_its_own_rate_and_strength() -> None:
    slow, fast, off = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [
        {"params": [slow], "lr": 0.01, "c": 1.0},
        {"params": [fast], "lr": torch.tensor(0.2), "c": 0.5},
        {"params": [off], "lr": 100.0, "c": 0.0},
    ]
    binding = Binding({"slow": slow, "fast": fast, "off": off}, torch.optim.SGD(groups))
    omega = {"slow": torch.tensor([1.0, 9.0]), "fast": torch.tensor([2.0, 1.0]), "off": torch.tensor([5.0, 5.0])}
    told = stiffest(binding, omega, lambda group, names: group["c"])
    assert told is not None
    assert (told.name, told.c) == ("fast", 0.5)
    assert told.ratio == pytest.approx(0.2 * 2 * 0.5 * 2.0 / 2)


def test_of_replicates_the_worst_counts() -> None:
    told = found(torch.tensor([[1.0, 8.0], [2.0, 3.0]]), (0.1, 0.5), lr=0.1)
    assert told.ratio == pytest.approx(0.1 * 2 * 0.5 * 3.0 / 2)
    assert told.c is None
    assert told.largest_times == pytest.approx(1 / told.ratio)


def test_what_pulls_nothing_and_other_optimizers_have_no_bound() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    omega = {"w": torch.ones(1)}
    sgd = Binding({"w": p}, torch.optim.SGD([p], lr=0.1))
    assert stiffest(sgd, {}, lambda *_: 1.0) is None
    assert stiffest(sgd, omega, lambda *_: 0.0) is None
    assert stiffest(sgd, {"w": torch.zeros(1)}, lambda *_: 1.0) is None
    assert stiffest(Binding({"w": p}, torch.optim.AdamW([p])), omega, lambda *_: 1.0) is None


def test_an_empty_parameter_and_an_omega_in_bfloat16_are_fine() -> None:
    p, empty = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(0))
    binding = Binding({"empty": empty, "w": p}, torch.optim.SGD([empty, p], lr=0.5))
    omega = {"empty": torch.ones(0), "w": torch.tensor([3.0], dtype=torch.bfloat16)}
    told = stiffest(binding, omega, lambda *_: 1.0)
    assert told is not None
    assert told.name == "w"
    assert told.ratio == pytest.approx(1.5)
