"""Section 4 of the paper: on a quadratic the importance is known in closed form."""

from __future__ import annotations

import pytest
import torch

import synaptic_intelligence as si

CURVATURES = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


def omega_of_descent(lr: float, steps: int, xi: float) -> torch.Tensor:
    """Plain gradient descent to convergence on 1/2 (theta - theta*)' H (theta - theta*), H diagonal."""
    target = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    theta = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=lr)
    synapses = si.SynapticIntelligence([("theta", theta)], optimizer, c=0.0, xi=xi)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * CURVATURES * (theta - target).square()).sum().backward()
        optimizer.step()
    synapses.consolidate()
    return synapses.omega["theta"]


@pytest.mark.parametrize("lr", [0.05, 0.1, 0.3])
def test_omega_is_the_hessian_over_two_minus_its_step(lr: float) -> None:
    # Each coordinate contracts by r = 1 - lr H: the path is H d^2 lr H / (1 - r^2) = d^2 H / (2 - lr H).
    omega = omega_of_descent(lr, steps=int(120 / lr), xi=1e-14)
    expected = CURVATURES / (2 - lr * CURVATURES)
    assert float(((omega - expected) / expected).abs().max()) < 1e-10


def test_small_steps_give_half_the_hessian() -> None:
    errors = []
    for lr in (0.08, 0.04, 0.02):
        omega = omega_of_descent(lr, steps=int(40 / lr), xi=1e-14)
        errors.append(float(((omega - CURVATURES / 2) / CURVATURES).abs().max()))
    assert errors[-1] < 0.022
    # The error is lr H^2 / 4 to first order: it halves with the step.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_xi_bounds_the_importance() -> None:
    damped, free = omega_of_descent(0.1, 1000, xi=0.1), omega_of_descent(0.1, 1000, xi=1e-14)
    target = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    assert float((damped - free * target**2 / (target**2 + 0.1)).abs().max()) < 1e-9
