"""suggest_c: the surrogate loss of the whole way back is what the task has gained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, small_model, task_batches

import synaptic_intelligence as si

XI = 0.05


def learnt(task: int, make: str = "around", tasks_before: int = 0) -> tuple[Any, Any, si.Consolidator, NaiveSynapses]:
    """A network, its twin with naive synapses, and the tasks that both have learnt."""
    model, twin = small_model(), small_model()
    optimizer: Any
    if make == "around":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=XI)
    else:
        optimizer = si.optim.SGD(model.named_parameters(), lr=0.05, c=0.5, xi=XI)
        synapses = optimizer.synapses
    naive, theirs = NaiveSynapses(twin, 0.5, XI), torch.optim.SGD(twin.parameters(), lr=0.05)
    for number in range(task - tasks_before, task + 1):
        starts = {name: p.detach().clone() for name, p in twin.named_parameters()}
        before = dict(naive.omega)
        for x, y in task_batches(number, 8):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            naive.step(theirs, lambda x=x, y=y: F.cross_entropy(twin(x), y))  # type: ignore[misc]
        synapses.consolidate()
        naive.consolidate()
        naive.back = sum(  # type: ignore[attr-defined]
            float(((naive.omega[n] - before[n]) * (p.detach() - starts[n]) ** 2).sum())
            for n, p in twin.named_parameters()
        )
    return model, optimizer, synapses, naive


@pytest.mark.parametrize("make", ["around", "inside"])
@pytest.mark.parametrize("tasks_before", [0, 1])
def test_going_back_costs_what_the_task_has_gained(make: str, tasks_before: int) -> None:
    _, _, synapses, naive = learnt(1, make, tasks_before)
    c = si.suggest_c(synapses, loss_before=1.5, loss_after=0.25)
    assert c * naive.back == pytest.approx(1.25, rel=1e-12)  # type: ignore[attr-defined]


def test_the_penalty_at_the_start_of_the_first_task_is_the_gain() -> None:
    model, _, synapses, _ = learnt(0)
    synapses.c = si.suggest_c(synapses, loss_before=3.0, loss_after=1.0)
    with torch.no_grad():
        for p, start in zip(model.parameters(), small_model().parameters(), strict=True):
            p.copy_(start)
    with pytest.warns(si.SynapseWarning, match="weights were changed"):
        assert float(synapses.penalty()) == pytest.approx(2.0, rel=1e-12)


def test_where_the_loss_is_quadratic_and_damping_is_small_the_strength_is_one() -> None:
    """The paper's c = 1: slow gradient descent on a sum of parabolas, whose path integral is exact."""
    curvature = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=1e-3)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.0, xi=1e-9)

    def loss() -> torch.Tensor:
        return (0.5 * curvature * (p - torch.tensor([1.0, -2.0, 0.5])) ** 2).sum()

    before = loss().item()
    for _ in range(8000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    after = loss().item()
    synapses.consolidate()
    # A sum of steps is above the integral by half a step's curvature: 1e-3 * 4 / 2 at most.
    assert si.suggest_c(synapses, loss_before=before, loss_after=after) == pytest.approx(1.0, abs=2e-3)


def test_allowed_is_the_price_of_a_new_loss_in_old_ones() -> None:
    _, _, synapses, _ = learnt(0)
    equal = si.suggest_c(synapses, loss_before=2.0, loss_after=0.0)
    assert si.suggest_c(synapses, loss_before=2.0, loss_after=0.0, allowed=0.25) == pytest.approx(4 * equal, rel=1e-12)


def test_decay_does_not_count_as_what_the_task_has_added() -> None:
    model, optimizer, synapses, _ = learnt(0)
    old = {name: 0.5 * omega for name, omega in synapses.omega.items()}
    anchor = copy.deepcopy(dict(synapses.anchor))
    for x, y in task_batches(1, 8):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    synapses.consolidate(decay=0.5)
    back = sum(float(((synapses.omega[n] - old[n]) * (synapses.anchor[n] - anchor[n]) ** 2).sum()) for n in anchor)
    assert si.suggest_c(synapses, loss_before=1.0, loss_after=0.0) == pytest.approx(1 / back, rel=1e-12)


def test_what_makes_no_sense_is_refused() -> None:
    _, _, synapses, _ = learnt(0)
    with pytest.raises(ValueError, match="the loss did not fall"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=1.0)
    with pytest.raises(ValueError, match="allowed must be"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=0.5, allowed=0.0)
    with pytest.raises(ValueError, match="loss_before must be"):
        si.suggest_c(synapses, loss_before=float("nan"), loss_after=0.5)
    with pytest.raises(TypeError, match="loss_after must be"):
        si.suggest_c(synapses, loss_before=1.0, loss_after="low")  # type: ignore[arg-type]
    with pytest.raises(si.SynapseError, match="no strength can be given"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=0.5, allowed=5e-324)


def test_losses_may_be_below_zero() -> None:
    _, _, synapses, _ = learnt(0)
    below = si.suggest_c(synapses, loss_before=-1.0, loss_after=-2.5)
    assert below == pytest.approx(si.suggest_c(synapses, loss_before=1.5, loss_after=0.0), rel=1e-15)


@pytest.mark.parametrize("make", ["around", "inside"])
def test_the_scale_goes_through_state_and_file(make: str, tmp_path: Path) -> None:
    _, optimizer, synapses, _ = learnt(0, make)
    before = si.suggest_c(synapses, loss_before=2.0, loss_after=0.0)
    synapses.save(tmp_path / "a.safetensors")
    whole = optimizer if make == "inside" else synapses
    state = copy.deepcopy(whole.state_dict())
    for from_file in (False, True):
        _, other, loaded, _ = learnt(1, make)
        if from_file:
            loaded.load(tmp_path / "a.safetensors")
        else:
            (other if make == "inside" else loaded).load_state_dict(state)
        assert si.suggest_c(loaded, loss_before=2.0, loss_after=0.0) == before


def test_replicates_and_groups_with_their_own_strength_are_refused() -> None:
    stacked = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([stacked], lr=0.1)
    synapses = si.SynapticIntelligence([("w", stacked)], optimizer, c=torch.tensor([0.0, 0.5]), xi=0.1)
    with pytest.raises(TypeError, match="one for all"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=0.5)
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [a]}, {"params": [b], "c": 0.0}]
    other = si.SynapticIntelligence([("a", a), ("b", b)], torch.optim.SGD(groups, lr=0.1), c=1.0, xi=0.1)
    with pytest.raises(si.SynapseError, match=r"groups \[1\] set a c of their own"):
        si.suggest_c(other, loss_before=1.0, loss_after=0.5)
    other.detach()
    groups[1] = {"params": [b], "c": None}
    inside = si.optim.SGD(groups, lr=0.1, c=1.0, xi=0.1)
    with pytest.raises(si.SynapseError, match="no task was consolidated"):
        si.suggest_c(inside.synapses, loss_before=1.0, loss_after=0.5)


def test_a_bootstrap_has_no_scale() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=XI)
    with pytest.raises(si.SynapseError, match="no task was consolidated"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=0.5)
    synapses.bootstrap(si.Uniform())
    with pytest.raises(si.SynapseError, match="has no scale"):
        si.suggest_c(synapses, loss_before=1.0, loss_after=0.5)
