"""Saving and loading synapses, also in the middle of a task: what follows is the same, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close, same, small_model, task_batches
from torch import nn

import synaptic_intelligence as si


def begin(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.optim.Optimizer, si.Consolidator]:
    model = small_model(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.05)


def go_on(run: Sequence[Any], first: int, last: int) -> None:
    """Steps `first` to `last` of three tasks of ten."""
    model, optimizer, synapses = run
    dtype = next(model.parameters()).dtype
    for number in range(first, last):
        x, y = task_batches(number // 10, 10, dtype)[number % 10]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if number % 10 == 9:
            synapses.consolidate()


@pytest.mark.parametrize("stop", [0, 1, 5, 10, 15, 20, 29])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stop: int, tmp_path: Path) -> None:
    whole: list[Any] = [*begin()]
    go_on(whole, 0, 30)
    first: list[Any] = [*begin()]
    go_on(first, 0, stop)
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint.pt")
    second: list[Any] = [*begin()]
    for part, state in zip(second, torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    go_on(second, stop, 30)
    for a, b in zip(second, whole, strict=True):
        assert same(a.state_dict(), b.state_dict())


def test_the_order_of_loading_weights_and_synapses_does_not_matter() -> None:
    first = begin()
    go_on(first, 0, 15)
    states = [copy.deepcopy(part.state_dict()) for part in first]
    second = begin()
    for part, state in reversed(list(zip(second, states, strict=True))):
        part.load_state_dict(state)
    go_on(first, 15, 30)
    go_on(second, 15, 30)  # warnings are errors here: of edited weights there is none
    assert_close(second[0].named_parameters(), dict(first[0].named_parameters()), 0)


@pytest.mark.parametrize("stop", [10, 15])
def test_an_importance_file_carries_over(stop: int, tmp_path: Path) -> None:
    first = begin()
    go_on(first, 0, stop)
    first[2].save(tmp_path / "a.safetensors")
    second = begin()
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
    second[2].load(tmp_path / "a.safetensors")
    go_on(first, stop, 30)
    go_on(second, stop, 30)
    assert_close(second[0].named_parameters(), dict(first[0].named_parameters()), 0)
    assert_close(second[2].omega.items(), dict(first[2].omega), 0)


def test_a_loaded_importance_pulls_other_weights_to_its_anchor(tmp_path: Path) -> None:
    first = begin()
    go_on(first, 0, 10)
    first[2].save(tmp_path / "a.safetensors")
    model = small_model(torch.float32, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.05)
    synapses.load(tmp_path / "a.safetensors")
    start = float(synapses.penalty())
    assert start > 0
    for _ in range(500):
        optimizer.zero_grad()
        optimizer.step()  # no task loss at all
    assert float(synapses.penalty()) < start / 2


def test_state_dict_always_offers_everything() -> None:
    _, _, synapses = begin()
    state = synapses.state_dict()
    assert list(state["path"]) == list(state["anchor"]) == list(state["omega"])
    assert all(float(omega.abs().max()) == 0 for omega in state["omega"].values())


def test_the_views_are_read_only() -> None:
    _, _, synapses = begin()
    views: list[Any] = [synapses.path, synapses.anchor, synapses.omega]
    for view in views:
        with pytest.raises(TypeError):
            view["0.weight"] = torch.zeros(1)


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
def test_low_precision_parameters_have_wide_synapses_that_survive_loading() -> None:
    first, second = begin(torch.bfloat16), begin(torch.bfloat16)
    go_on(first, 0, 15)
    state = copy.deepcopy(first[2].state_dict())
    second[2].load_state_dict(state)
    for kind in ("path", "omega", "anchor"):
        assert {t.dtype for t in second[2].state_dict()[kind].values()} == {torch.float32}
        assert_close(second[2].state_dict()[kind].items(), state[kind], 0)
    assert any(bool((omega > 0).any()) for omega in first[2].omega.values())


def test_loading_a_state_forgets_what_was_counted_and_said_before() -> None:
    model, optimizer, synapses = begin()
    go_on((model, optimizer, synapses), 0, 12)
    state = copy.deepcopy([part.state_dict() for part in (model, optimizer, synapses)])
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    with pytest.warns(si.SynapseWarning, match="weights were changed"):
        go_on((model, optimizer, synapses), 12, 13)
    model.get_parameter("0.weight").grad = torch.full((8, 6), torch.inf)
    optimizer.step()
    model.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    synapses.load_state_dict(state[2])
    synapses.state_dict()  # does not speak of the step before: warnings are errors here
    go_on((model, optimizer, synapses), 12, 13)
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    with pytest.warns(si.SynapseWarning, match="weights were changed"):
        go_on((model, optimizer, synapses), 13, 14)
