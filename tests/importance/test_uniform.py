"""The same importance for every number: L2-SP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import synaptic_intelligence as si


def gradients(model: nn.Module) -> list[Tensor]:
    return [torch.full_like(p, 0.1 * i) for i, p in enumerate(model.parameters())]


def test_training_is_weight_decay_towards_the_checkpoint() -> None:
    """Beside Li et al.'s penalty, alpha / 2 * ||w - w0||^2, in the loss of an ordinary loop."""
    torch.manual_seed(0)
    model, c, value = nn.Linear(3, 2).double(), 0.25, 2.0
    start = [p.detach().clone() for p in model.parameters()]
    plain = [nn.Parameter(p.clone()) for p in start]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    synapses = si.Consolidator(model.named_parameters(), optimizer, si.Uniform(value), c=c)
    synapses.consolidate()
    other = torch.optim.SGD(plain, lr=0.3)
    for _ in range(5):
        for p, q, g in zip(model.parameters(), plain, gradients(model), strict=True):
            p.grad, q.grad = g.clone(), None
        optimizer.step()
        alpha = 2 * c * value
        for q, w, g in zip(plain, start, gradients(model), strict=True):
            ((g * q).sum() + alpha / 2 * (q - w).square().sum()).backward()
        other.step()
    for p, q, w in zip(model.parameters(), plain, start, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-14)
        assert bool((p != w).any()) is bool((q != w).any())


def test_each_task_adds_the_same_but_to_what_is_frozen() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    synapses = si.Consolidator(model.named_parameters(), optimizer, si.Uniform(0.5), c=1.0)
    synapses.consolidate()
    model.bias.requires_grad_(False)
    synapses.consolidate()
    assert synapses.omega["weight"].unique().tolist() == [1.0]
    assert synapses.omega["bias"].unique().tolist() == [0.5]


def test_it_is_added_before_a_coarse_omega_is_rounded() -> None:
    weight = nn.Parameter(torch.zeros(1))
    coarse = {"weight": torch.ones(1, dtype=torch.bfloat16)}  # in which 1 + 2^-10 is 1
    end = si.TaskEnd({"weight": weight}, {"weight": weight.detach()}, {}, coarse, None)
    omega = si.Uniform(2**-10).new_omega(end)["weight"]
    assert omega.dtype == torch.float32
    assert omega.item() == 1 + 2**-10


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_value_must_be_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="value must be positive and finite"):
        si.Uniform(value)


@pytest.mark.parametrize("value", ["1", None, True])
def test_value_must_be_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="value must be a number"):
        si.Uniform(value)


def test_another_value_does_not_load() -> None:
    def synapses(value: float) -> si.Consolidator:
        p = nn.Parameter(torch.ones(1))
        return si.Consolidator([("p", p)], torch.optim.SGD([p], lr=0.1), si.Uniform(value), c=1.0)

    with pytest.raises(si.SynapseError, match=r"1\.0.*2\.0"):
        synapses(2.0).load_state_dict(synapses(1.0).state_dict())
