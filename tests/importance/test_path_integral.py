"""The path integral by hand: every number below can be worked out on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import synaptic_intelligence as si


def one_synapse(start: float, *, c: float, xi: float, lr: float) -> tuple[Tensor, torch.optim.SGD, si.Consolidator]:
    theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=lr)
    return theta, optimizer, si.SynapticIntelligence([("theta", theta)], optimizer, c=c, xi=xi)


def step(theta: Tensor, optimizer: torch.optim.Optimizer, target: float) -> None:
    """One step down the loss 1/2 (theta - target)^2, whose gradient is theta - target."""
    optimizer.zero_grad()
    (0.5 * (theta - target) ** 2).backward()
    optimizer.step()


def test_two_tasks_by_hand() -> None:
    theta, optimizer, synapses = one_synapse(0.0, c=0.25, xi=1.0, lr=0.5)

    # Task 1, target 4. Nothing pulls yet.
    #   step 1: g = 0 - 4 = -4; theta 0 -> 2, delta = 2; path = 4 * 2 = 8
    #   step 2: g = 2 - 4 = -2; theta 2 -> 3, delta = 1; path = 8 + 2 * 1 = 10
    step(theta, optimizer, 4.0)
    assert synapses.path["theta"].item() == 8
    step(theta, optimizer, 4.0)
    assert theta.item() == 3
    assert synapses.path["theta"].item() == 10
    #   omega = 10 / ((3 - 0)^2 + 1) = 1
    ended = synapses.consolidate()
    assert ended["theta"].item() == 10
    assert synapses.omega["theta"].item() == 1
    assert synapses.anchor["theta"].item() == 3
    assert synapses.path["theta"].item() == 0

    # Task 2, target 1. The pull is 2 c omega (theta - 3) = 0.5 (theta - 3); it moves theta, but is not in g.
    #   step 1: g = 3 - 1 = 2,  pull = 0;           theta 3 -> 2,      delta = -1;    path = 2 * 1 = 2
    #   step 2: g = 2 - 1 = 1,  pull = 0.5 * -1;    theta 2 -> 1.75,   delta = -0.25; path = 2 + 1 * 0.25 = 2.25
    step(theta, optimizer, 1.0)
    step(theta, optimizer, 1.0)
    assert theta.item() == 1.75
    assert synapses.path["theta"].item() == 2.25
    #   penalty = c omega (1.75 - 3)^2 = 0.25 * 1 * 1.5625
    assert synapses.penalty().item() == 0.390625
    #   omega = 1 + 2.25 / (1.5625 + 1) = 1 + 36 / 41
    synapses.consolidate()
    assert synapses.omega["theta"].item() == pytest.approx(1 + 36 / 41, rel=1e-15)
    assert synapses.anchor["theta"].item() == 1.75


def test_the_relu_is_of_the_running_sum() -> None:
    # Gradient descent always has path >= 0, so a negative learning rate climbs the loss on purpose.
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=1.0)
    synapses = si.SynapticIntelligence([("theta", theta)], optimizer, c=0.0, xi=1.0)

    def move(gradient: list[float]) -> None:
        theta.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()

    # Task 1: delta = -g, so path = g^2 = (4, 4, 4) and theta = (-2, -2, -2): omega = 4 / (4 + 1) = 0.8 each.
    move([2.0, 2.0, 2.0])
    synapses.consolidate()
    assert synapses.omega["theta"].tolist() == [0.8, 0.8, 0.8]

    # Task 2 climbs: delta = g, so path = -g^2.
    #   g = (0, 0.5, 2): path / (delta^2 + 1) = (0, -0.25 / 1.25, -4 / 5) = (0, -0.2, -0.8)
    #   and a third task falls by 0.8 once more: the sum is clamped at 0, not the term.
    optimizer.param_groups[0]["lr"] = -1.0
    move([0.0, 0.5, 2.0])
    synapses.consolidate()
    torch.testing.assert_close(synapses.omega["theta"], torch.tensor([0.8, 0.6, 0.0], dtype=torch.float64))
    move([2.0, 2.0, 2.0])
    synapses.consolidate()
    assert synapses.omega["theta"].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)

    # What was clamped is forgotten: the next gain of 0.8 counts in full.
    optimizer.param_groups[0]["lr"] = 1.0
    move([2.0, 2.0, 2.0])
    synapses.consolidate()
    assert synapses.omega["theta"].tolist() == pytest.approx([0.8, 0.8, 0.8], rel=1e-15)


@pytest.mark.parametrize(("xi", "omega"), [(1.0, 10 / 10), (6.0, 10 / 15), (91.0, 10 / 100), (1e-30, 10 / 9)])
def test_xi_damps(xi: float, omega: float) -> None:
    theta, optimizer, synapses = one_synapse(0.0, c=1.0, xi=xi, lr=0.5)
    step(theta, optimizer, 4.0)
    step(theta, optimizer, 4.0)
    synapses.consolidate()  # path 10, displacement 3, as in the example above
    assert synapses.omega["theta"].item() == pytest.approx(omega, rel=1e-15)


def test_xi_bounds_the_importance_of_a_synapse_that_came_back() -> None:
    # Target 1 with lr = 2: g = -1, theta 0 -> 2, path 2; g = 1, theta 2 -> 0, path 4. It went nowhere in the end.
    theta, optimizer, synapses = one_synapse(0.0, c=0.01, xi=0.5, lr=2.0)
    step(theta, optimizer, 1.0)
    step(theta, optimizer, 1.0)
    synapses.consolidate()
    assert synapses.omega["theta"].item() == 4 / 0.5


def test_a_synapse_that_did_not_move_has_no_importance() -> None:
    theta, optimizer, synapses = one_synapse(4.0, c=1.0, xi=1e-6, lr=0.5)
    step(theta, optimizer, 4.0)
    synapses.consolidate()
    assert synapses.omega["theta"].item() == 0


def test_the_path_is_the_drop_of_the_loss_in_small_steps() -> None:
    # Eq. 3: summed over small steps the path is loss(start) - loss(end) = 1/2 * 16 - 1/2 * 16 e^-2.
    theta, optimizer, synapses = one_synapse(0.0, c=1.0, xi=1.0, lr=0.01)
    start = 8.0
    for _ in range(200):
        step(theta, optimizer, 4.0)
    end = 0.5 * (theta.item() - 4) ** 2
    assert synapses.path["theta"].item() == pytest.approx(start - end, rel=0.01)


@pytest.mark.parametrize("xi", [0.0, -0.1, float("nan"), float("inf"), -0.0])
def test_xi_must_be_positive(xi: float) -> None:
    with pytest.raises(ValueError, match="xi must be positive and finite"):
        si.PathIntegral(xi)


@pytest.mark.parametrize("xi", ["0.1", None, 1j])
def test_xi_must_be_a_number(xi: Any) -> None:
    with pytest.raises(TypeError):
        si.PathIntegral(xi)


def test_another_xi_does_not_load() -> None:
    state = one_synapse(0.0, c=1.0, xi=0.1, lr=0.5)[2].state_dict()
    synapses = one_synapse(0.0, c=1.0, xi=0.2, lr=0.5)[2]
    with pytest.raises(si.SynapseError, match=r"0\.1.*0\.2"):
        synapses.load_state_dict(state)
