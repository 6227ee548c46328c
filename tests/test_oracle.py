"""The library against the naive oracle: every optimizer of torch but LBFGS and SparseAdam, which it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, assert_close, loss_of, small_model, task_batches

import synaptic_intelligence as si

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.003}),
    ("RMSprop", {"lr": 0.003, "momentum": 0.5, "centered": True}),
    ("Adagrad", {"lr": 0.02}),
    ("NAdam", {"lr": 0.005}),
    ("NAdam", {"lr": 0.005, "weight_decay": 0.01, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.005}),
    ("Adamax", {"lr": 0.01}),
    ("Adadelta", {"lr": 1.0}),
    ("ASGD", {"lr": 0.02}),
    ("Rprop", {"lr": 0.002}),
    ("Adafactor", {"lr": 0.01}),
]
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
C, XI, STEPS, TASKS = 0.5, 0.05, 25, 3


def variants() -> list[Any]:
    found = []
    for name, options in OPTIMIZERS:
        label = "-".join([name, *(key for key in options if key != "lr")])
        found.append(pytest.param(name, {**options, "foreach": False}, id=f"{label}-single"))
        found.append(pytest.param(name, {**options, "foreach": True}, id=f"{label}-foreach"))
        if name in FUSED:
            found.append(pytest.param(name, {**options, "fused": True}, id=f"{label}-fused"))
    return found


def run_naive(name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[torch.nn.Module, NaiveSynapses]:
    model = small_model(dtype)
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    naive = NaiveSynapses(model, C, XI)
    for task in range(TASKS):
        for x, y in task_batches(task, STEPS, dtype):
            naive.step(optimizer, loss_of(model, x, y))
        if task + 1 < TASKS:
            naive.consolidate()
    return model, naive


def run_library(name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[torch.nn.Module, si.Consolidator]:
    model = small_model(dtype)
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(TASKS):
        for x, y in task_batches(task, STEPS, dtype):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        if task + 1 < TASKS:
            synapses.consolidate()
    return model, synapses


def test_every_optimizer_of_torch_is_here() -> None:
    known = {name for name, _ in OPTIMIZERS} | {"Muon", "LBFGS", "SparseAdam", "Optimizer"}
    public = {name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
    assert public == known


def test_muon_equals_the_oracle() -> None:
    """Muon takes matrices alone."""
    runs = []
    for _ in range(2):
        model = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(8, 3, bias=False)).double()
        model.load_state_dict({"0.weight": small_model()[0].weight, "1.weight": small_model()[3].weight})
        runs.append((model, torch.optim.Muon(model.parameters(), lr=0.01)))
    (twin, twin_optimizer), (model, optimizer) = runs
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(TASKS):
        for x, y in task_batches(task, STEPS):
            naive.step(twin_optimizer, loss_of(twin, x, y))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [*variants(), pytest.param("Adam", {"lr": torch.tensor(0.01), "foreach": False}, id="Adam-tensor-lr")],
)
def test_equals_the_oracle_in_float64(name: str, options: dict[str, Any]) -> None:
    naive_model, naive = run_naive(name, options, torch.float64)
    model, synapses = run_library(name, options, torch.float64)
    assert_close(model.named_parameters(), dict(naive_model.named_parameters()), 1e-12)
    assert_close(synapses.path.items(), naive.path, 1e-12)
    synapses.consolidate()
    naive.consolidate()
    assert_close(synapses.omega.items(), naive.omega, 1e-12)
    assert_close(synapses.anchor.items(), naive.anchor, 1e-12)


@pytest.mark.parametrize(("name", "options"), [("SGD", {"lr": 0.05, "momentum": 0.9}), ("Adam", {"lr": 0.01})])
def test_equals_the_float64_oracle_in_float32(name: str, options: dict[str, Any]) -> None:
    naive_model, naive = run_naive(name, options, torch.float64)
    model, synapses = run_library(name, options, torch.float32)
    synapses.consolidate()
    naive.consolidate()
    assert_close(model.named_parameters(), dict(naive_model.named_parameters()), 1e-5)
    assert_close(synapses.omega.items(), naive.omega, 1e-4)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_pull_matters_in_this_test(name: str) -> None:
    """The oracle test could not fail if the penalty were too weak to be seen."""
    model, _ = run_library(name, {"lr": 0.01}, torch.float64)
    free = small_model()
    optimizer = getattr(torch.optim, name)(free.parameters(), lr=0.01)
    for task in range(TASKS):
        for x, y in task_batches(task, STEPS):
            optimizer.zero_grad()
            F.cross_entropy(free(x), y).backward()
            optimizer.step()
    difference = max(
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), free.parameters(), strict=True)
    )
    assert difference > 1e-3


def test_the_mean_path_is_the_loss_that_went_away() -> None:
    """With small steps of plain gradient descent the path sums to the decrease of the loss (eq. 2)."""
    model = small_model()
    x, y = task_batches(0, 1)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=XI)
    first = F.cross_entropy(model(x), y).item()
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    decrease = first - F.cross_entropy(model(x), y).item()
    total = float(torch.stack([path.sum() for path in synapses.consolidate().values()]).sum())
    assert decrease > 0.05
    assert total == pytest.approx(decrease, rel=5e-3)
