"""What an optimizer with synapses saves is all of it, and what it loads is all of it, or nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_close, same, small_model
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from twins import count_rules, inside, needs_kernel, train

import synaptic_intelligence as si

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
]
each_optimizer = pytest.mark.parametrize(
    ("name", "options"), OPTIMIZERS, ids=["SGD", "SGD-momentum", "SGD-dampening", "Adam", "AdamW"]
)


def begin(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """A network whose last layer has no synapses."""
    model = small_model(dtype)
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [{"params": named[:2]}, {"params": named[2:4], "c": 0.2}]
    return model, inside(name, [*groups, {"params": named[4:], "c": None}], **options)


def go_on(model: nn.Module, optimizer: Any, first: int, last: int) -> None:
    """Steps `first` to `last` of three tasks of ten."""
    for number in range(first, last):
        train(model, optimizer, number // 10, number % 10 + 1, first=number % 10)
        if number % 10 == 9:
            optimizer.consolidate()


def numbers(model: nn.Module, optimizer: Any) -> list[Any]:
    return [model.state_dict(), optimizer.state_dict()]


@pytest.mark.parametrize("stop", [0, 1, 5, 10, 15, 29])
@each_optimizer
def test_a_resumed_run_equals_an_uninterrupted_one(
    name: str, options: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    whole = begin(name, options)
    go_on(*whole, 0, 30)
    first = begin(name, options)
    go_on(*first, 0, stop)
    torch.save(numbers(*first), tmp_path / "checkpoint.pt")
    second = begin(name, options)
    for part, state in zip(second, torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert same(numbers(*second), numbers(*first))
    go_on(*second, stop, 30)
    assert same(numbers(*second), numbers(*whole))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("stop", [0, 5, 10, 15])
@each_optimizer
def test_distributed_checkpoints(name: str, options: dict[str, Any], stop: int, full: bool, tmp_path: Path) -> None:
    """They read only what a fresh process offers, and write it into what it offered."""
    how = StateDictOptions(full_state_dict=full)
    first, second = begin(name, options), begin(name, options)
    go_on(*first, 0, stop)

    def parts(model: nn.Module, optimizer: Any) -> dict[str, Any]:
        return {
            "model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=how),
        }

    before = copy.deepcopy(numbers(*first))
    save(parts(*first), checkpoint_id=tmp_path, no_dist=True)
    assert same(numbers(*first), before)
    state = parts(*second)
    load(state, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(second[0], state["model"])
    set_optimizer_state_dict(*second, state["optimizer"], options=how)
    for key, saved in before[1]["state"].items():
        assert same(dict(sorted(second[1].state_dict()["state"][key].items())), dict(sorted(saved.items())))
    go_on(*first, stop, 30)
    go_on(*second, stop, 30)
    assert same(dict(second[1].synapses.omega), dict(first[1].synapses.omega))
    assert same(second[0].state_dict(), first[0].state_dict())


def test_distributed_checkpoints_leave_out_what_is_frozen() -> None:
    first, second = (begin("Adam", {"lr": 0.01}) for _ in range(2))
    for model, _ in (first, second):
        model.get_parameter("0.bias").requires_grad_(False)
    go_on(*first, 0, 15)
    state = get_optimizer_state_dict(*first)
    second[0].load_state_dict(first[0].state_dict())
    with pytest.warns(si.SynapseWarning, match=r"\['0.bias'\], which are frozen"):
        set_optimizer_state_dict(*second, copy.deepcopy(state))
    go_on(*first, 15, 30)
    go_on(*second, 15, 30)
    assert same(second[0].state_dict(), first[0].state_dict())
    for kind in ("path", "anchor", "omega"):
        assert same(dict(getattr(second[1].synapses, kind)), dict(getattr(first[1].synapses, kind)))


def test_a_flattened_state_is_refused_with_words(tmp_path: Path) -> None:
    how = StateDictOptions(flatten_optimizer_state_dict=True)
    first, second = begin("SGD", {}), begin("SGD", {})
    go_on(*first, 0, 5)
    state = get_optimizer_state_dict(*first, options=how)
    with pytest.raises(si.SynapseError, match="flatten_optimizer_state_dict"):
        set_optimizer_state_dict(*second, state, options=how)


@each_optimizer
def test_the_state_always_offers_everything(name: str, options: dict[str, Any]) -> None:
    fresh, trained = begin(name, options), begin(name, options)
    go_on(*trained, 0, 15)
    offered, full = fresh[1].state_dict(), trained[1].state_dict()
    assert list(offered["state"]) == list(full["state"]) == list(range(6))
    for key, state in full["state"].items():
        assert {*state} == {*offered["state"][key]}
        for kind, tensor in state.items():
            assert (tensor.shape, tensor.dtype) == (
                offered["state"][key][kind].shape,
                offered["state"][key][kind].dtype,
            )
    assert [*offered["param_groups"][0]] == [*full["param_groups"][0]]
    assert all("omega" not in state for state in fresh[1].state.values())  # it is offered, and not allocated
    moments = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
    for state in offered["state"].values():
        assert all(float(state[kind].abs().max()) == 0 for kind in {*state} & {"path", "omega", *moments})


def test_the_state_that_was_given_does_not_follow_the_weights() -> None:
    """Before the first step the anchor follows them; what is read into a state must stay there until it is loaded."""
    model, optimizer = begin("Adam", {})
    state = optimizer.state_dict()
    before = state["state"][0]["anchor"].clone()
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    assert torch.equal(optimizer.synapses.anchor["0.weight"], model.get_parameter("0.weight"))
    assert torch.equal(state["state"][0]["anchor"], before)


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
def test_low_precision_parameters_keep_wide_synapses() -> None:
    first, second = begin("Adam", {}, torch.bfloat16), begin("Adam", {}, torch.bfloat16)
    go_on(*first, 0, 15)
    second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
    for kind in ("path", "anchor", "omega"):
        values = getattr(second[1].synapses, kind)
        assert same(dict(values), dict(getattr(first[1].synapses, kind)))
        assert {value.dtype for value in values.values()} == {torch.float32}
        assert all(second[1].state[p].get(kind) is values[name] for name, p in list(second[0].named_parameters())[:4])


# Options.


def test_strength_and_damping_are_loaded_with_a_warning() -> None:
    model, optimizer = small_model(), small_model()
    saved = inside("Adam", model.named_parameters(), c=0.7, xi=0.3)
    train(model, saved, 0)
    other = inside("Adam", optimizer.named_parameters())
    with pytest.warns(si.SynapseWarning) as caught:
        other.load_state_dict(saved.state_dict())
    assert sorted(str(w.message).partition(" ")[0] for w in caught) == ["c", "xi"]
    assert (other.param_groups[0]["c"], other.param_groups[0]["xi"]) == (0.7, 0.3)
    assert other.synapses.c == 0.7
    other.load_state_dict(saved.state_dict())  # nothing changes now: warnings are errors here


def test_a_state_of_torchs_own_optimizer_leaves_the_synapses_alone() -> None:
    model, optimizer = begin("Adam", {})
    go_on(model, optimizer, 0, 15)
    plain = torch.optim.Adam([{"params": list(model.parameters())[i : i + 2]} for i in (0, 2, 4)], lr=0.25)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad(), optimizer.synapses.paused():
        plain.step()
    kinds = {kind: {n: t.clone() for n, t in getattr(optimizer.synapses, kind).items()} for kind in ("path", "omega")}
    with pytest.warns(si.SynapseWarning, match="no synapses"):
        optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[1]["lr"] == 0.25
    assert [group["c"] for group in optimizer.param_groups] == [0.5, 0.2, None]
    assert torch.equal(optimizer.state[model.get_parameter("0.weight")]["exp_avg"], torch.full((8, 6), 0.1))
    for kind, values in kinds.items():
        assert same(dict(getattr(optimizer.synapses, kind)), values)
        assert optimizer.state[model.get_parameter("0.weight")][kind] is getattr(optimizer.synapses, kind)["0.weight"]
    go_on(model, optimizer, 15, 20)


def test_torchs_own_optimizer_takes_the_state() -> None:
    model, optimizer = begin("Adam", {})
    go_on(model, optimizer, 0, 5)
    plain = torch.optim.Adam([{"params": list(model.parameters())[i : i + 2]} for i in (0, 2, 4)])
    plain.load_state_dict(optimizer.state_dict())
    assert float(plain.state[model.get_parameter("3.bias")]["step"]) == 5
    with optimizer.synapses.paused():
        plain.step()


# Damage.


def first_state(state: dict[str, Any]) -> dict[str, Any]:
    """State 0 of a state_dict, as a copy that is put in its place."""
    found: dict[str, Any] = dict(state["state"][0])
    state["state"][0] = found
    return found


def drop(kind: str) -> Any:
    return lambda state: first_state(state).pop(kind)


def put(kind: str, value: Any) -> Any:
    return lambda state: first_state(state).update({kind: value})


def group(option: str, value: Any) -> Any:
    return lambda state: state["param_groups"][0].update({option: value})


DAMAGE: dict[str, Any] = {
    "no path": drop("path"),
    "no omega": drop("omega"),
    "no anchor": drop("anchor"),
    "no step": drop("step"),
    "no moment": drop("exp_avg_sq"),
    "no state": lambda state: state["state"].pop(0),
    "other shape of omega": put("omega", torch.ones(2)),
    "other shape of a moment": put("exp_avg", torch.ones(8, 1)),
    "step of many": put("step", torch.ones(8, 6)),
    "step below zero": put("step", -1.0),
    "moment is a number": put("exp_avg", 3.0),
    "path is a number": put("path", 0.0),
    "omega below zero": put("omega", -torch.ones(8, 6)),
    "path not finite": put("path", torch.full((8, 6), torch.nan)),
    "no progress": lambda state: state["param_groups"][0].pop("tasks"),
    "tasks below zero": group("tasks", -1),
    "steps in words": group("steps", "three"),
    "untouched in words": group("untouched", "no"),
    "c below zero": group("c", -1.0),
    "c in words": group("c", "strong"),
    "no c": lambda state: state["param_groups"][0].pop("c"),
    "c of a group without synapses": lambda state: state["param_groups"][2].update(c=1.0),
    "c=None of a group with synapses": group("c", None),
    "xi of zero": group("xi", 0.0),
    "no betas": lambda state: [each.pop("betas") for each in state["param_groups"]],
    "fewer groups": lambda state: state["param_groups"].pop(),
    "fewer parameters": lambda state: state["param_groups"][0]["params"].pop(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_raises_and_changes_nothing(damage: str) -> None:
    model, optimizer = begin("Adam", {"lr": 0.01})
    go_on(model, optimizer, 0, 15)
    other_model, other = begin("Adam", {"lr": 0.02})
    go_on(other_model, other, 0, 12)
    state = copy.deepcopy(other.state_dict())
    DAMAGE[damage](state)
    before = copy.deepcopy(numbers(model, optimizer))
    kept = {name: id(path) for name, path in optimizer.synapses.path.items()}
    with pytest.raises((si.SynapseError, ValueError, TypeError)):
        optimizer.load_state_dict(state)
    assert same(numbers(model, optimizer), before)
    assert {name: id(path) for name, path in optimizer.synapses.path.items()} == kept
    go_on(model, optimizer, 15, 20)


@pytest.mark.parametrize(("saved", "into"), [("SGD", "Adam"), ("Adam", "SGD")])
def test_a_state_of_another_optimizer_is_refused(saved: str, into: str) -> None:
    first, second = begin(saved, {}), begin(into, {})
    go_on(*first, 0, 15)
    go_on(*second, 0, 5)
    before = copy.deepcopy(numbers(*second))
    with pytest.raises(si.SynapseError, match="of another optimizer"):
        second[1].load_state_dict(first[1].state_dict())
    assert same(numbers(*second), before)


def test_warnings_that_are_errors_change_nothing() -> None:
    first, second = begin("Adam", {"c": 0.9}), begin("Adam", {})
    go_on(*first, 0, 15)
    before = copy.deepcopy(numbers(*second))
    with pytest.raises(si.SynapseWarning, match="c of parameter group 0"):
        second[1].load_state_dict(first[1].state_dict())
    assert same(numbers(*second), before)


def test_a_step_that_raised_is_put_right_before_loading() -> None:
    model, optimizer = begin("Adam", {"lr": 0.01})
    go_on(model, optimizer, 0, 15)
    optimizer.param_groups[0]["capturable"] = True
    gradients = [p.grad for p in model.parameters()]
    with pytest.raises(AssertionError, match="capturable"):
        optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


# Around it.


@needs_kernel
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_tensors_of_other_strides_are_brought_into_place(name: str) -> None:
    options: dict[str, Any] = {"lr": 0.01} if name == "Adam" else {"lr": 0.05, "momentum": 0.9}
    first, second = begin(name, options), begin(name, options)
    go_on(*first, 0, 15)
    state = copy.deepcopy(first[1].state_dict())
    for each in state["state"].values():
        for kind, tensor in each.items():
            if tensor.ndim == 2:
                each[kind] = tensor.T.contiguous().T
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(state)
    for run in (first, second):
        with count_rules() as called:
            go_on(*run, 15, 30)
        assert len(called) == 15
    assert same(numbers(*second), numbers(*first))


def test_hooks_of_the_user_see_and_change_what_is_saved_and_loaded() -> None:
    first, second = begin("Adam", {}), begin("Adam", {})
    go_on(*first, 0, 15)

    def rename(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        assert "omega" in state["state"][0]
        return {"mine": state}

    def name_back(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        inner: dict[str, Any] = state["mine"]
        return inner

    loaded: list[Tensor] = []
    handle = first[1].register_state_dict_post_hook(rename)
    second[1].register_load_state_dict_pre_hook(name_back)
    second[1].register_load_state_dict_post_hook(lambda o: loaded.append(o.state[second[0].get_parameter("0.bias")]))
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
    handle.remove()
    assert len(loaded) == 1
    assert len(second[1]._optimizer_load_state_dict_pre_hooks) == 1
    assert same(numbers(*second), numbers(*first))


def test_the_state_of_the_synapses_alone() -> None:
    first = begin("Adam", {"lr": 0.01})
    go_on(*first, 0, 10)
    second = begin("Adam", {"lr": 0.01})
    second[0].load_state_dict(first[0].state_dict())
    second[1].synapses.load_state_dict(copy.deepcopy(first[1].synapses.state_dict()))
    assert_close(second[1].synapses.omega.items(), dict(first[1].synapses.omega), 0.0)
    assert second[1].state[second[0].get_parameter("0.bias")]["omega"] is second[1].synapses.omega["0.bias"]
    first[1].reset_moments()
    go_on(*first, 10, 15)
    second[1].param_groups[1]["c"] = 0.2
    go_on(*second, 10, 15)
    assert_close(second[0].named_parameters(), dict(first[0].named_parameters()), 0.0)


def test_importance_that_is_loaded_leaves_the_strength_of_each_group() -> None:
    _, optimizer = begin("Adam", {})
    optimizer.synapses.load_state_dict(copy.deepcopy(optimizer.synapses.state_dict()))
    assert [group["c"] for group in optimizer.param_groups] == [0.5, 0.2, None]
