"""Where gradient descent with a pull begins to diverge: the formula, the step's eigenvalues, and torch's SGD itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from operations import Ops

import synaptic_intelligence as si
from synaptic_intelligence.binding import Binding
from synaptic_intelligence.diagnosis.stability import Stiffest, Watch, stability_bound, stiffest

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


def test_a_weight_decay_that_diverges_by_itself_leaves_no_room_for_c_and_is_blamed() -> None:
    told = found(torch.ones(1), 1.0, lr=1.0, weight_decay=3.0)
    assert told.largest_times == 0.0
    assert str(told) == (
        "weight_decay alone makes the step on 'w' too long: with the pull it is 2.5 times what SGD can follow, so that "
        "weights swing ever wider: set lr below 0.4, or lower weight_decay"
    )
    assert grows(2 * 0.0 + 3.0, lr=1.0)  # as it does without any pull
    assert not grows(2 * 1.0 + 3.0, lr=0.99 * told.largest_lr)


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


def test_what_is_to_be_set_is_where_the_strength_came_from() -> None:
    body, head = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [body]}, {"params": [head], "c": 20.0}]

    def message(optimizer: torch.optim.Optimizer, omega_of_body: float) -> str:
        binding = Binding({"body": body, "head": head}, optimizer)
        omega = {"body": torch.tensor([omega_of_body]), "head": torch.ones(1)}
        return str(stiffest(binding, omega, lambda group, names: group.get("c", 1.0)))

    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert "on 'body' is 4 times what SGD can follow" in message(optimizer, 40.0)
    assert message(optimizer, 40.0).endswith(": set c below 0.25, or lr below 0.025")
    assert message(optimizer, 1.0).endswith(": set c of parameter group 1 below 10, or lr below 0.05")
    inside = si.optim.SGD(groups, lr=0.1, c=1.0, xi=0.1)
    assert message(inside, 40.0).endswith(": set c below 0.25, or lr below 0.025")
    assert message(inside, 1.0).endswith(": set c of parameter group 1 below 10, or lr below 0.05")


def test_of_replicates_the_worst_counts() -> None:
    told = found(torch.tensor([[1.0, 8.0], [2.0, 3.0]]), (0.1, 0.5), lr=0.1)
    assert told.ratio == pytest.approx(0.1 * 2 * 0.5 * 3.0 / 2)
    assert told.c is None
    assert told.largest_times == pytest.approx(1 / told.ratio)


class Another(torch.optim.SGD):
    """What it does in a step is its own affair."""


def test_what_pulls_nothing_and_other_optimizers_have_no_bound() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    omega = {"w": torch.ones(1)}
    sgd = Binding({"w": p}, torch.optim.SGD([p], lr=0.1))
    assert stiffest(sgd, {}, lambda *_: 1.0) is None
    assert stiffest(sgd, omega, lambda *_: 0.0) is None
    assert stiffest(sgd, {"w": torch.zeros(1)}, lambda *_: 1.0) is None
    inside = si.optim.SGD([p], lr=0.1, c=1.0, xi=0.1)
    assert stiffest(Binding({"w": p}, inside), omega, lambda *_: 1.0) is not None
    inside.synapses.detach()
    for other in (torch.optim.AdamW, torch.optim.ASGD, Another):
        assert stiffest(Binding({"w": p}, other([p], lr=0.1)), omega, lambda *_: 1.0) is None


def test_an_empty_parameter_and_an_omega_in_bfloat16_are_fine() -> None:
    p, empty = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(0))
    binding = Binding({"empty": empty, "w": p}, torch.optim.SGD([empty, p], lr=0.5))
    omega = {"empty": torch.ones(0), "w": torch.tensor([3.0], dtype=torch.bfloat16)}
    told = stiffest(binding, omega, lambda *_: 1.0)
    assert told is not None
    assert told.name == "w"
    assert told.ratio == pytest.approx(1.5)


# Looked at again and again.


def test_rates_strengths_and_momenta_are_seen_as_they_change_and_omega_is_read_once() -> None:
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], "lr": torch.tensor(0.1)}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    binding, strength = Binding({"p": p, "q": q}, optimizer), {"c": 1.0}
    watch = Watch(binding, lambda group, names: strength["c"])
    omega, version = {"p": torch.tensor([1.0, 5.0]), "q": torch.tensor([4.0, 0.5])}, object()
    slow, fast = optimizer.param_groups
    changes: list[Callable[[], Any]] = [
        lambda: None,
        lambda: slow.update(lr=0.3),
        lambda: strength.update(c=0.0),
        lambda: strength.update(c=0.01),
        lambda: fast["lr"].fill_(2.0),
        lambda: fast.update(momentum=0.9, nesterov=True),
        lambda: fast.update(lr=0.1, weight_decay=50.0),
    ]
    for number, change in enumerate(changes):
        change()
        with Ops() as ops:
            told = watch.look(omega, version)
        assert ("max" in str(ops.seen)) == (number == 0)
        assert told == stiffest(binding, omega, lambda group, names: strength["c"])
        omega = {name: tensor.clone() for name, tensor in omega.items()}  # as when it is moved
    strength["c"] = 1.0
    told = watch.look({"p": torch.tensor([70.0, 0.0]), "q": torch.ones(2)}, object())
    assert told is not None
    assert told.name == "p"
    assert told.ratio == pytest.approx(0.3 * 2 * 70.0 / 2)


def test_no_look_but_the_first_touches_a_tensor() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    watch = Watch(Binding({"w": p}, torch.optim.SGD([p], lr=0.3)), lambda *_: 1.0)
    omega, version = {"w": torch.tensor([1.0, 5.0])}, object()
    watch.look(omega, version)
    with Ops() as ops:
        told = watch.look(omega, version)
    assert ops.seen == []
    assert told is not None
    assert told.diverges


def test_strengths_of_replicates_are_followed() -> None:
    p, strength = torch.nn.Parameter(torch.ones(2, 1)), {"c": (1.0, 1.0)}
    watch = Watch(Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), lambda *_: strength["c"])
    omega, version = {"w": torch.tensor([[1.0], [4.0]])}, object()
    for c, ratio in (((1.0, 1.0), 0.4), ((50.0, 1.0), 5.0), ((0.0, 0.5), 0.2)):
        strength["c"] = c
        told = watch.look(omega, version)
        assert told is not None
        assert told.ratio == pytest.approx(ratio)


def test_a_rate_on_an_accelerator_is_not_read_in_a_step() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.param_groups[0]["lr"] = torch.tensor(9.0, device="meta")  # which cannot be read at all
    assert Watch(Binding({"w": p}, optimizer), lambda *_: 1.0).look({"w": torch.ones(1)}, object()) is None
