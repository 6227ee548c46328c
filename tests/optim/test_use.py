"""How an optimizer with synapses is made, used and given up."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close, same, small_model, task_batches
from torch import Tensor, nn
from twins import XI, C, count_rules, inside, needs_kernel, train

import synaptic_intelligence as si

NAMES = ["SGD", "Adam", "AdamW"]
each_name = pytest.mark.parametrize("name", NAMES)


def begin(name: str = "Adam", **options: Any) -> tuple[nn.Module, Any]:
    model = small_model()
    return model, inside(name, model.named_parameters(), **{"lr": 0.01, **options})


def begin_hooks() -> tuple[nn.Module, torch.optim.Optimizer, si.Consolidator]:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)


# Made.


@each_name
def test_it_is_torchs_own_optimizer_with_the_same_arguments(name: str) -> None:
    ours, theirs = getattr(si.optim, name), getattr(torch.optim, name)
    assert issubclass(ours, theirs)
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    positional: tuple[Any, ...] = (0.02, 0.5, 0.1, 0.3, False) if name == "SGD" else (0.02, (0.8, 0.9), 1e-6, 0.3, True)
    ours, theirs = ours([p], *positional, c=1.0, xi=0.1), theirs([q], *positional)
    assert {**theirs.defaults, "c": 1.0, "xi": 0.1} == ours.defaults
    assert repr(ours).startswith(f"{name} (")
    with pytest.raises(TypeError, match="unexpected keyword"):
        inside(name, [nn.Parameter(torch.ones(1))], momentun=0.9)


@each_name
def test_both_options_must_be_given(name: str) -> None:
    with pytest.raises(TypeError, match="'c'"):
        getattr(si.optim, name)([nn.Parameter(torch.ones(1))], xi=0.1)
    with pytest.raises(TypeError, match="'xi'"):
        getattr(si.optim, name)([nn.Parameter(torch.ones(1))], c=0.1)


@pytest.mark.parametrize("where", ["argument", "group"])
@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("c", -1.0, ValueError),
        ("c", float("nan"), ValueError),
        ("c", "strong", TypeError),
        ("c", torch.tensor([1.0]), TypeError),
        ("c", True, TypeError),
        ("xi", 0.0, ValueError),
        ("xi", -1.0, ValueError),
        ("xi", float("inf"), ValueError),
        ("xi", None, TypeError),
        ("xi", "much", TypeError),
    ],
)
def test_options_that_cannot_be(where: str, option: str, value: Any, error: type[Exception]) -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], **({option: value} if where == "group" else {})}]
    with pytest.raises(error, match=option):
        inside("Adam", groups, **({option: value} if where == "argument" else {}))
    inside("Adam", [p, q])  # nothing was claimed


def test_options_that_are_changed_are_looked_at_when_they_are_used() -> None:
    model, optimizer = begin(c=np.float64(0.5), xi=1)
    train(model, optimizer, 0)
    options = optimizer.param_groups[0]
    options["xi"] = 0.0
    path = {name: value.clone() for name, value in optimizer.synapses.path.items()}
    with pytest.raises(ValueError, match="xi"):
        optimizer.consolidate()
    assert same(dict(optimizer.synapses.path), path)
    options["xi"], options["c"] = 0.1, -2.0
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="c of a parameter group"):
        optimizer.step()
    options["c"] = None
    with pytest.raises(si.SynapseError, match="c=None"):
        optimizer.step()
    assert same(dict(model.state_dict()), dict(weights))
    options["c"] = 2
    optimizer.step()
    optimizer.consolidate()


def test_the_strength_reaches_all_groups() -> None:
    model = small_model()
    named = list(model.named_parameters())
    optimizer = inside("SGD", [{"params": named[:2]}, {"params": named[2:4]}, {"params": named[4:], "c": None}])
    assert optimizer.synapses.c == C
    optimizer.synapses.c = 3.0
    assert [group["c"] for group in optimizer.param_groups] == [3.0, 3.0, None]
    twin = small_model()
    named = list(twin.named_parameters())
    other = inside("SGD", [{"params": named[:4]}, {"params": named[4:], "c": None}], c=3.0)
    for task in range(2):
        for m, o in ((model, optimizer), (twin, other)):
            train(m, o, task)
            o.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 0.0)


def test_names(tmp_path: Path) -> None:
    model, optimizer = begin()
    assert list(optimizer.synapses.path) == [name for name, _ in model.named_parameters()]
    train(model, optimizer, 0)
    optimizer.consolidate()
    optimizer.synapses.save(tmp_path / "a.safetensors")
    _, other = begin()
    other.synapses.load(tmp_path / "a.safetensors")
    assert_close(other.synapses.omega.items(), dict(optimizer.synapses.omega), 0.0)
    unnamed = small_model()
    layers: Any = unnamed
    optimizer = inside("Adam", [{"params": layers[0].parameters()}, {"params": layers[3].parameters()}])
    assert list(optimizer.synapses.path) == ["0.0", "0.1", "1.0", "1.1"]
    with pytest.raises(si.SynapseError, match="named_parameters"):
        optimizer.synapses.save(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_names_are_those_of_the_bare_network() -> None:
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module._orig_mod = small_model()
    optimizer = inside("Adam", wrapped.named_parameters(), lr=0.01)
    assert list(optimizer.synapses.path) == [name for name, _ in small_model().named_parameters()]
    train(wrapped.module._orig_mod, optimizer, 0)
    optimizer.consolidate()


def test_the_members_are_those_of_the_hook_form() -> None:
    _, optimizer = begin()
    _, _, synapses = begin_hooks()
    ours, theirs = ({m for m in dir(s) if not m.startswith("_")} for s in (optimizer.synapses, synapses))
    assert ours == theirs
    assert optimizer.synapses.importance.settings() == synapses.importance.settings() == {"xi": XI}
    memory = optimizer.synapses.memory()
    assert (memory.path, memory.anchor, memory.omega, memory.scratch) == (memory.path, memory.path, 0, 0)
    assert memory.path == 8 * sum(p.numel() for p in small_model().parameters())


@needs_kernel
def test_it_keeps_three_numbers_for_each_parameter_and_no_scratch() -> None:
    model, optimizer = begin()
    for task in range(4):
        train(model, optimizer, task)
        optimizer.consolidate()
    memory = optimizer.synapses.memory()
    assert memory.total == 3 * 8 * sum(p.numel() for p in model.parameters())


# Tasks.


@each_name
def test_fresh_moments_are_those_of_a_fresh_optimizer(name: str) -> None:
    options: dict[str, Any] = {"momentum": 0.9} if name == "SGD" else {"amsgrad": True}
    model, optimizer = begin(name, **options)
    twin = small_model()
    theirs = getattr(torch.optim, name)(twin.parameters(), lr=0.01, **options)
    synapses = si.SynapticIntelligence(twin.named_parameters(), theirs, c=C, xi=XI)
    for task in range(3):
        if task:
            optimizer.reset_moments()
            theirs = getattr(torch.optim, name)(twin.parameters(), lr=0.01, **options)
            synapses.attach(theirs)
        train(model, optimizer, task)
        train(twin, theirs, task)
        optimizer.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(optimizer.synapses.omega.items(), dict(synapses.omega), 1e-12)


@pytest.mark.parametrize("how", ["clear", "of one", "a new one"])
def test_a_state_that_was_cleared_is_noticed(how: str) -> None:
    model, optimizer = begin()
    twin, other = begin()
    for m, o in ((model, optimizer), (twin, other)):
        train(m, o, 0)
        o.consolidate()
        train(m, o, 1, 3)
    if how == "clear":
        optimizer.state.clear()
    elif how == "of one":
        optimizer.state[model.get_parameter("0.bias")].clear()
    else:
        optimizer.state = type(optimizer.state)(dict)
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(si.SynapseError, match="reset_moments"):
        optimizer.step()
    assert same(dict(model.state_dict()), dict(weights))
    for o in (optimizer, other):
        o.reset_moments()
    for m, o in ((model, optimizer), (twin, other)):
        train(m, o, 1, 3)
        o.consolidate()
    assert same(model.state_dict(), twin.state_dict())
    assert same(dict(optimizer.synapses.omega), dict(other.synapses.omega))


def test_tensors_that_others_put_into_the_state_are_not_stepped_instead() -> None:
    """As a loop does that moves an optimizer's state to a device, tensor for tensor."""
    model, optimizer = begin()
    twin, other = begin()
    for m, o in ((model, optimizer), (twin, other)):
        train(m, o, 0)
        o.consolidate()
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value.clone()
    for m, o in ((model, optimizer), (twin, other)):
        train(m, o, 1)
        o.consolidate()
    assert same(model.state_dict(), twin.state_dict())
    assert same(dict(optimizer.synapses.omega), dict(other.synapses.omega))


def test_steps_without_any_gradient_are_none() -> None:
    model, optimizer = begin()
    optimizer.step()
    assert optimizer.synapses.state_dict()["steps"] == 0
    assert optimizer.synapses.state_dict()["untouched"]
    with pytest.raises(si.SynapseError, match="train first"):
        optimizer.consolidate()
    train(model, optimizer, 0, 1)
    optimizer.consolidate()


def test_a_step_that_was_given_up_is_not_taken_later() -> None:
    """A hook of the user that raises after ours; the next step is paused, and must be plain."""
    model, optimizer = begin()
    train(model, optimizer, 0)
    fail = [True]

    def broken(*_: Any) -> None:
        if fail.pop():
            raise OSError("no luck")

    handle = optimizer.register_step_pre_hook(broken)
    with pytest.raises(OSError, match="no luck"):
        optimizer.step()
    handle.remove()
    path = {name: value.clone() for name, value in optimizer.synapses.path.items()}
    with optimizer.synapses.paused():
        optimizer.step()
    assert same(dict(optimizer.synapses.path), path)


# Weights.


def test_weights_that_are_loaded_or_cast_before_the_first_step_are_the_anchor() -> None:
    model = small_model(torch.float32)
    optimizer = inside("Adam", model.named_parameters(), lr=0.01)
    model.load_state_dict(small_model(torch.float32, seed=5).state_dict())
    assert_close(optimizer.synapses.anchor.items(), dict(model.named_parameters()), 0.0)
    model.double()
    twin = small_model(seed=5).float().double()
    other = inside("Adam", twin.named_parameters(), lr=0.01)
    for task in range(2):
        for m, o in ((model, optimizer), (twin, other)):
            train(m, o, task)
            o.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 0.0)
    assert_close(optimizer.synapses.omega.items(), dict(other.synapses.omega), 0.0)
    assert {omega.dtype for omega in optimizer.synapses.omega.values()} == {torch.float64}


def test_weights_that_are_edited_between_steps_are_warned_of() -> None:
    model, optimizer = begin()
    train(model, optimizer, 0)
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    with pytest.warns(si.SynapseWarning, match="weights were changed"):
        optimizer.step()
    optimizer.step()  # said once, and its own steps are no edits


def test_autograd_sees_that_weights_were_stepped() -> None:
    """As with torch's steps: backward through weights from before the step raises instead of giving wrong gradients."""
    model, optimizer = begin()
    x, y = task_batches(0, 1)[0]
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
def test_parameters_that_were_replaced_are_followed() -> None:
    model, optimizer = begin()
    train(model, optimizer, 0)
    optimizer.consolidate()
    old = model.get_parameter("0.weight")
    omega = optimizer.synapses.omega["0.weight"]
    fresh = nn.Parameter(old.detach().clone())
    module: Any = model
    module[0].weight = fresh
    optimizer.param_groups[0]["params"][0] = fresh
    train(model, optimizer, 1)
    assert old not in optimizer.state
    assert optimizer.state[fresh]["omega"] is omega
    optimizer.consolidate()
    restored = begin()[1]
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(dict(restored.synapses.omega), dict(optimizer.synapses.omega))


# Taken over, moved, refused.


@pytest.mark.parametrize("stop", [0, 5, 10, 15])
@pytest.mark.parametrize("source", ["hooks", "inside"])
def test_synapses_are_taken_over(source: str, stop: int) -> None:
    """They go on as they were, in the middle of a task too; the optimizer that had them raises."""

    def run(take_over: bool) -> tuple[nn.Module, si.Consolidator]:
        if source == "hooks":
            model, optimizer, synapses = begin_hooks()
        else:
            model, optimizer = begin()
            synapses = optimizer.synapses
        for number in range(stop):
            train(model, optimizer, number // 10, number % 10 + 1, first=number % 10)
            if number % 10 == 9:
                synapses.consolidate()
        if take_over:
            new = inside("SGD", model.named_parameters(), lr=0.05, synapses=synapses)
            with pytest.raises(si.SynapseError, match="detached or moved"):
                optimizer.step()
            synapses = new.synapses
        else:
            new = torch.optim.SGD(model.parameters(), lr=0.05)
            synapses.attach(new)
        for number in range(stop, 30):
            train(model, new, number // 10, number % 10 + 1, first=number % 10)
            if number % 10 == 9:
                synapses.consolidate()
        return model, synapses

    (model, ours), (twin, theirs) = run(True), run(False)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(ours.omega.items(), dict(theirs.omega), 1e-12)
    assert ours.tasks == theirs.tasks == 3


@pytest.mark.parametrize("source", ["hooks", "inside"])
@pytest.mark.parametrize("trouble", ["names", "some", "strength", "damping", "rate", "estimator"])
def test_a_failing_take_over_leaves_the_old_ones_at_work(source: str, trouble: str) -> None:
    if source == "hooks":
        model, optimizer, synapses = begin_hooks()
    else:
        model, optimizer = begin()
        synapses = optimizer.synapses
    if trouble == "estimator":
        synapses.detach()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        fisher = si.Fisher(model, F.cross_entropy, kind="empirical")
        synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=C)
    train(model, optimizer, 0)
    before = copy.deepcopy(synapses.state_dict())
    named = list(model.named_parameters())
    params: Any = {"names": list(model.parameters()), "some": named[:3]}.get(trouble, named)
    options: dict[str, Any] = {"strength": {"c": -1.0}, "damping": {"xi": 0.0}, "rate": {"lr": -1.0}}.get(trouble, {})
    with pytest.raises((si.SynapseError, ValueError)):
        inside("Adam", params, synapses=synapses, **options)
    assert same(synapses.state_dict(), before)
    train(model, optimizer, 0)
    assert synapses.state_dict()["steps"] == 20 or trouble == "estimator"
    with pytest.raises(si.SynapseError, match="has synapses already"):
        inside("Adam", model.named_parameters())


def test_attach_and_detach() -> None:
    model, optimizer = begin()
    train(model, optimizer, 0)
    optimizer.consolidate()
    synapses = optimizer.synapses
    plain = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses.attach(plain)
    with pytest.raises(si.SynapseError, match="detached or moved"):
        optimizer.step()
    train(model, plain, 1)
    synapses.consolidate()
    synapses.attach(optimizer)
    with count_rules():
        train(model, optimizer, 2)
    optimizer.consolidate()
    assert synapses.tasks == 3
    synapses.detach()
    with pytest.raises(si.SynapseError, match="detached or moved"):
        optimizer.step()


def test_synapses_that_moved_on_with_new_parameters_are_damped_by_their_group() -> None:
    model = small_model()
    named = list(model.named_parameters())
    optimizer = inside("SGD", [{"params": named[:2], "xi": 0.7}, {"params": named[2:]}], lr=0.05)
    clone = small_model()
    plain = torch.optim.SGD(clone.parameters(), lr=0.05)
    optimizer.synapses.attach(plain, clone.named_parameters())
    anchor = clone.get_parameter("0.weight").detach().clone()
    train(clone, plain, 0)
    path = optimizer.consolidate()["0.weight"]
    moved = clone.get_parameter("0.weight").detach() - anchor
    by_hand = torch.relu(path / (moved.square() + 0.7))
    assert_close([("w", optimizer.synapses.omega["0.weight"])], {"w": by_hand}, 1e-12)


def test_synapses_of_another_are_not_attached_to_one_that_has_its_own() -> None:
    """It would step its own, and the other's would stand still."""
    model, optimizer = begin()
    first = optimizer.synapses
    first.detach()
    other = inside("Adam", model.named_parameters())
    with pytest.raises(si.SynapseError, match="synapses="):
        first.attach(other)
    train(model, other, 0)
    other.synapses.detach()
    with pytest.raises(si.SynapseError, match="synapses="):
        first.attach(other)
    with pytest.raises(si.SynapseError, match="synapses="):
        si.SynapticIntelligence(model.named_parameters(), other, c=C, xi=XI)
    first.attach(optimizer)
    train(model, optimizer, 0)


def test_two_consolidators_are_refused() -> None:
    model, optimizer = begin()
    with pytest.raises(si.SynapseError, match="has synapses already"):
        inside("Adam", model.named_parameters())
    with pytest.raises(si.SynapseError, match="synapses="):
        si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    with pytest.raises(si.SynapseError, match="has synapses already"):
        si.SynapticIntelligence(model.named_parameters(), torch.optim.SGD(model.parameters()), c=C, xi=XI)
    train(model, optimizer, 0)


def test_one_that_was_dropped_holds_nothing() -> None:
    model, optimizer = begin()
    train(model, optimizer, 0)
    del optimizer
    inside("Adam", model.named_parameters())


def test_groups_that_come_later() -> None:
    model, optimizer = begin()
    train(model, optimizer, 0)
    optimizer.consolidate()
    late = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for options in ({}, {"c": 0.5}):
        with pytest.raises(si.SynapseError, match="c=None"):
            optimizer.add_param_group({"params": [("late", late)], **options})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [("late", late)], "c": None})
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert bool((late < 1).all())
    assert "late" not in optimizer.synapses.path
    restored_model, restored = begin()
    other = nn.Parameter(torch.ones(3, dtype=torch.float64))
    restored.add_param_group({"params": [("late", other)], "c": None})
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(restored.state_dict(), optimizer.state_dict())
    assert restored_model is not model


@each_name
def test_copies_and_pickles_are_refused(name: str) -> None:
    _, optimizer = begin(name)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"state_dict"):
            attempt(optimizer)


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
def test_a_sparse_gradient_is_refused() -> None:
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = inside("Adam", [{"params": [p]}, {"params": [q], "c": None}])
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(si.SynapseError, match="sparse"):
        optimizer.step()
    p.grad, q.grad = torch.ones(3), torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_a_step_inside_backward_is_refused() -> None:
    model, optimizer = begin()
    p = model.get_parameter("3.bias")
    p.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    x, y = task_batches(0, 1)[0]
    with pytest.raises(si.SynapseError, match=r"inside backward"):
        F.cross_entropy(model(x), y).backward()


# Compiled.


def test_a_compiled_network() -> None:
    model, optimizer = begin()
    twin, other = begin()
    compiled: Any = torch.compile(model, backend="eager")
    for task in range(2):
        train(compiled, optimizer, task, 3)
        train(twin, other, task, 3)
        optimizer.consolidate()
        other.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(optimizer.synapses.omega.items(), dict(other.synapses.omega), 1e-12)


@pytest.mark.parametrize("form", ["hooks", *NAMES])
def test_a_compiled_step_is_the_step(form: str) -> None:
    """The compiler must neither skip what stands around a step nor take part in it."""
    runs = []
    for compiles in (False, True):
        if form == "hooks":
            model, optimizer, synapses = begin_hooks()
        else:
            model, inner = begin(form)
            optimizer, synapses = inner, inner.synapses
        step: Any = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for task in range(2):
            for x, y in task_batches(task, 3):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the compiler, about itself and what it passes over
                    step()
            synapses.consolidate()
        runs.append((model, synapses))
    (model, plain), (twin, compiled) = runs
    # What torch compiles of its own Adam corrects the moments in float32.
    tolerance = 1e-5 if form == "hooks" else 1e-12
    assert_close(twin.named_parameters(), dict(model.named_parameters()), tolerance)
    assert_close(compiled.omega.items(), dict(plain.omega), 10 * tolerance if form == "hooks" else tolerance)
    assert any(bool((omega > 0).any()) for omega in compiled.omega.values())


def test_shared_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(2))
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(torch.tanh(self.a(x)))
            return y

    model = Tied()
    optimizer = inside("Adam", model.named_parameters())
    assert list(optimizer.synapses.path) == ["a.weight"]


def test_the_strength_is_that_of_the_groups_where_they_have_the_same() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = si.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.1, c=0.5, xi=0.1)
    for group in optimizer.param_groups:
        group["c"] = 0.25
    assert optimizer.synapses.c == 0.25
    optimizer.param_groups[0]["c"] = 0.75
    assert optimizer.synapses.c == 0.5  # there is no one strength: that which was given
    optimizer.synapses.c = 1.0
    assert [group["c"] for group in optimizer.param_groups] == [1.0, 1.0]
    assert optimizer.synapses.state_dict()["c"] == 1.0
    optimizer.param_groups[0]["c"] = optimizer.param_groups[1]["c"] = 0.5
    assert optimizer.synapses.c == optimizer.synapses.state_dict()["c"] == 0.5


def test_importance_with_another_strength_leaves_groups_of_their_own() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "c": 0.2}]
    optimizer = si.optim.SGD(groups, lr=0.1, c=0.5, xi=0.1)
    state = optimizer.synapses.state_dict()
    with pytest.warns(si.SynapseWarning, match=r"c is 0.9 in state and was 0.5: now 0.9"):
        optimizer.synapses.load_state_dict({**state, "c": 0.9})
    assert [group["c"] for group in optimizer.param_groups] == [0.9, 0.2]


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
def test_a_parameter_that_grows_in_place_is_not_stepped_beyond_its_moments() -> None:
    """Same object, same address: only the shape tells; the kernel would write beyond the end of the buffer."""
    memory, other = torch.zeros(1024), nn.Parameter(torch.ones(2))
    p = nn.Parameter(memory[:8])
    groups: list[dict[str, Any]] = [{"params": [other]}, {"params": [p], "c": None}]
    optimizer = si.optim.SGD(groups, lr=0.1, momentum=0.9, c=0.5, xi=0.1)
    for _ in range(2):
        p.grad, other.grad = torch.ones(8), torch.ones(2)
        optimizer.step()
    p.data = memory[:1024]
    p.grad = torch.ones(1024)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
@pytest.mark.parametrize("form", ["inside", "hooks"])
def test_a_parameter_that_is_transposed_in_place_keeps_its_numbers_together(form: str) -> None:
    p = nn.Parameter(torch.arange(16.0).reshape(4, 4).clone())
    if form == "inside":
        optimizer: torch.optim.Optimizer = si.optim.SGD([("w", p)], lr=0.1, c=0.5, xi=0.1)
        synapses = optimizer.synapses  # type: ignore[attr-defined]
    else:
        optimizer = torch.optim.SGD([p], lr=0.1)
        synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.5, xi=0.1)
    first = torch.rand(4, 4)
    p.grad = first.clone()
    optimizer.step()
    before = synapses.path["w"].clone()
    p.data = p.data.t()
    gradient = torch.arange(16.0).reshape(4, 4)
    p.grad = torch.empty_like(p).copy_(gradient)
    optimizer.step()
    assert torch.allclose(synapses.path["w"] - before, 0.1 * gradient.square(), rtol=1e-3)


def test_a_gradient_that_a_step_hook_replaces_is_the_one_that_is_stepped() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = si.optim.SGD([("w", p)], lr=1.0, c=0.5, xi=0.1)

    def clip(*_: Any) -> None:
        p.grad = torch.full((2,), 0.5)

    optimizer.register_step_pre_hook(clip)
    p.grad = torch.full((2,), 100.0)
    optimizer.step()
    assert p.tolist() == [-0.5, -0.5]
    assert optimizer.synapses.path["w"].tolist() == [0.25, 0.25]

    def narrow(*_: Any) -> None:
        p.grad = torch.ones(2).to_sparse()

    optimizer.register_step_pre_hook(narrow)
    p.grad = torch.ones(2)
    with pytest.raises(si.SynapseError, match="sparse"):
        optimizer.step()
    assert p.tolist() == [-0.5, -0.5]


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
def test_a_gradient_without_memory_is_no_address() -> None:
    p = nn.Parameter(torch.ones(8))
    optimizer = si.optim.SGD([("w", p)], lr=0.1, c=0.5, xi=0.1)
    p.grad = torch._efficientzerotensor((8,))
    optimizer.step()
    assert p.tolist() == [1.0] * 8


def test_synapses_that_were_taken_over_are_of_no_use_and_say_so(tmp_path: Path) -> None:
    p = nn.Parameter(torch.ones(2))
    old = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.5, xi=0.1)
    with pytest.warns(si.SynapseWarning) as told:
        optimizer = si.optim.SGD([("w", p)], lr=0.1, c=2.0, xi=0.3, synapses=old)
    assert [str(each.message) for each in told] == [
        "c of the synapses that are taken over was 0.5: now 2.0",
        "xi of the synapses that are taken over was 0.1: now 0.3",
    ]
    for use in (lambda: old.path, lambda: old.state_dict(), lambda: old.save(tmp_path / "x"), lambda: old.c):
        with pytest.raises(si.SynapseError, match=r"optimizer\.synapses"):
            use()
    assert optimizer.synapses.c == 2.0


@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_a_hook_that_takes_itself_off_may_still_replace_a_gradient(form: str) -> None:
    p = nn.Parameter(torch.ones(3))
    if form == "inside":
        optimizer: Any = inside("SGD", [("p", p)], lr=1.0)
        synapses = optimizer.synapses
    else:
        optimizer = torch.optim.SGD([p], lr=1.0)
        synapses = si.SynapticIntelligence([("p", p)], optimizer, c=C, xi=XI)

    def once(*_: Any) -> None:
        handle.remove()
        p.grad = torch.zeros(3)

    handle = optimizer.register_step_pre_hook(once)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [1.0] * 3
    assert synapses.path["p"].tolist() == [0.0] * 3


@each_name
def test_a_moment_that_is_missing_is_an_error_and_no_address(name: str) -> None:
    """As in torch; of SGD it is made anew."""
    p = nn.Parameter(torch.ones(3))
    optimizer = inside(name, [("p", p)], lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    moment = "momentum_buffer" if name == "SGD" else "exp_avg"
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
        if name == "SGD":
            optimizer.state[p].pop(moment, None)
    if name == "SGD":
        return
    del optimizer.state[p][moment]
    with pytest.raises(KeyError, match=moment):
        optimizer.step()


def test_amsgrad_that_is_turned_on_in_mid_run_is_an_error_as_in_torch() -> None:
    for make in (lambda p: torch.optim.Adam([p]), lambda p: inside("Adam", [("p", p)])):
        p = nn.Parameter(torch.ones(3))
        optimizer = make(p)
        p.grad = torch.ones(3)
        optimizer.step()
        optimizer.param_groups[0]["amsgrad"] = True
        with pytest.raises(KeyError, match="max_exp_avg_sq"):
            optimizer.step()


def test_a_momentum_that_is_none_is_one_that_is_not_there() -> None:
    """As older states of SGD have it."""
    ends = []
    for optimizer_of in (lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9), None):
        p = nn.Parameter(torch.zeros(2))
        optimizer: Any = optimizer_of(p) if optimizer_of else inside("SGD", [("p", p)], lr=0.1, momentum=0.9)
        optimizer.state[p]["momentum_buffer"] = None
        for _ in range(3):
            p.grad = torch.ones(2)
            optimizer.step()
        ends.append(p.detach().clone())
    assert torch.allclose(ends[0], ends[1])


def test_before_the_first_step_the_state_has_the_weights_as_they_are_now() -> None:
    model, optimizer = begin()
    with torch.no_grad():
        next(model.parameters()).fill_(7.0)
    anchor = optimizer.state_dict()["state"][0]["anchor"]
    assert bool((anchor == 7.0).all())
    assert same(anchor, optimizer.synapses.anchor["0.weight"].clone())


def test_synapses_that_get_another_dtype_of_omega_say_so() -> None:
    model = small_model(torch.float32)
    first = inside("Adam", model.named_parameters(), omega_dtype=torch.bfloat16)
    with pytest.warns(
        si.SynapseWarning, match="omega_dtype of the synapses that are taken over was torch.bfloat16: now"
    ):
        inside("Adam", model.named_parameters(), synapses=first.synapses)
