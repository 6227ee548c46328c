"""The computations that benchmarks make of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_epsilon_before_the_correction_is_the_adam_of_keras() -> None:
    """theta -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)."""
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([p], lr=0.1, eps=1e-3)
    load("adam_epsilon").put_before_the_correction(optimizer)
    theta, m, v = p.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in range(1, 8):
        gradient = torch.tensor([0.01 * step, -1e-3], dtype=torch.float64)
        p.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        theta -= 0.1 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step) * m / (v.sqrt() + 1e-3)
        torch.testing.assert_close(p.detach(), theta, rtol=1e-12, atol=0)


def test_shares_add_up_and_tell_units_from_synapses() -> None:
    module = load("shared_synapses")
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (30, 40))
    product = torch.outer(rows, columns)
    torch.testing.assert_close(module.by_units(product), product)
    of_units = module.shares([product, 2 * product])
    assert of_units == pytest.approx(
        {"variance, units": 1, "covariance, units": 1, "covariance, synapses": 0, "covariance, between": 0}, abs=1e-12
    )
    # Sums of zero over all rows and columns: what no units have in common.
    noise = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    noise -= noise.mean(1, keepdim=True)
    shared = module.shares([product + noise, product - noise])
    assert sum(value for name, value in shared.items() if name.startswith("covariance")) == pytest.approx(1)
    # What is opposite outweighs what is the same, so that the whole is below zero.
    assert shared["covariance, units"] < 0 < 1 < shared["covariance, synapses"]
    assert shared["variance, units"] < 0.2
    assert module.shares([product + noise, 2 * product + noise])["covariance, synapses"] > 0.8
