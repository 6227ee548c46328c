"""Accumulated and clipped gradients: the path takes the gradient that reaches the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_difference, small_model
from stacks.example import first_task_accuracies, run_example
from stacks.forms import Shadow, each_form, each_name, made
from stacks.plain import (
    RATE,
    STEPS,
    TASKS,
    Batches,
    Outcome,
    assert_same,
    batches,
    outcome_of,
    synapses_of,
    train_plainly,
)
from torch import Tensor, nn
from twins import no_kernel

import synaptic_intelligence as si

pytestmark = pytest.mark.stack("accumulation and clipping")

CLIP = 0.05

CLIPS: dict[str, Callable[[nn.Module], object]] = {
    "not": lambda model: None,
    "by norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), CLIP),
    "by value": lambda model: nn.utils.clip_grad_value_(model.parameters(), CLIP / 10),
}


def grouped(task: int, accumulate: int) -> list[Batches]:
    """The batches of a task, as many together as make one step; the last may be fewer."""
    found = batches(task)
    return [found[i : i + accumulate] for i in range(0, len(found), accumulate)]


def backward(model: nn.Module, together: Batches) -> None:
    for x, y in together:
        (F.cross_entropy(model(x), y) / len(together)).backward()


def by_hand(model: nn.Module, together: Batches, clip: str) -> dict[str, Tensor]:
    """Gradients of the mean loss, accumulated and clipped without torch's own functions for that."""
    named = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in named.items()}
    for x, y in together:
        found = torch.autograd.grad(F.cross_entropy(model(x), y), list(named.values()))
        for name, g in zip(named, found, strict=True):
            total[name] += g.double() / len(together)
    if clip == "by norm":
        norm = float(torch.cat([g.flatten() for g in total.values()]).square().sum().sqrt())
        assert norm > CLIP
        return {name: (g * (CLIP / (norm + 1e-6))).float() for name, g in total.items()}
    if clip == "by value":
        assert any(bool((g.abs() > CLIP / 10).any()) for g in total.values())
        return {name: g.clamp(-CLIP / 10, CLIP / 10).float() for name, g in total.items()}
    return {name: g.float() for name, g in total.items()}


@each_form
@each_name
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("accumulate", [1, 5])
def test_equals_a_naive_loop_within_1e_5(accumulate: int, clip: str, name: str, form: str) -> None:
    """Accumulated, and clipped by norm, by value or not: minus gradient times movement, all of it by hand."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, name, model)
    shadow = Shadow(model, name, bound=1e-5)
    for task in range(TASKS):
        for together in grouped(task, accumulate):
            gradients = by_hand(model, together, clip)
            optimizer.zero_grad()
            backward(model, together)
            CLIPS[clip](model)
            with shadow.step(gradients):
                optimizer.step()
        assert synapses.state_dict()["steps"] == len(grouped(task, accumulate))
        if task + 1 < TASKS:
            synapses.consolidate()
            shadow.consolidate()
    assert_same(outcome_of(model, synapses), shadow.outcome, weights=1e-5, importance=1e-5)


@each_form
def test_what_is_left_of_an_accumulation_counts_in_the_next_task_within_1e_5(form: str) -> None:
    """A task that ends between two steps: what `p.grad` holds then is in the first step of the next task."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, "SGD", model)
    shadow = Shadow(model, "SGD", bound=1e-5)
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for task in range(TASKS):
        for number, (x, y) in enumerate(batches(task), start=task * STEPS + 1):
            for name, g in by_hand(model, [(x, y)], "not").items():
                total[name] += g.double()
            backward(model, [(x, y)])
            if number % 5 == 0:
                with shadow.step({name: g.float() for name, g in total.items()}):
                    optimizer.step()
                optimizer.zero_grad()
                for g in total.values():
                    g.zero_()
        if task + 1 < TASKS:
            assert any(bool(g.any()) for g in total.values())
            synapses.consolidate()
            shadow.consolidate()
    assert_same(outcome_of(model, synapses), shadow.outcome, weights=1e-5, importance=1e-5)


@each_form
def test_the_comparison_sees_the_gradient_before_it_was_clipped(form: str) -> None:
    """A path of unclipped gradients differs by more than its own size, one of clipped ones by less than 1e-6."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, "SGD", model)
    named = dict(model.named_parameters())
    paths = [{name: torch.zeros_like(p, dtype=torch.float64) for name, p in named.items()} for _ in range(2)]
    for x, y in batches(0):
        optimizer.zero_grad()
        backward(model, [(x, y)])
        unclipped = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        CLIPS["by norm"](model)
        clipped = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        before = {name: p.detach().clone() for name, p in named.items()}
        optimizer.step()
        for path, gradients in zip(paths, (clipped, unclipped), strict=True):
            for name, p in named.items():
                path[name] -= gradients[name].double() * (p.detach() - before[name]).double()
    for name, found in synapses.path.items():
        assert relative_difference(found, paths[0][name]) < 1e-6
        assert relative_difference(paths[1][name], paths[0][name]) > 1


Train = Callable[[torch.optim.Optimizer, nn.Module, Batches], None]


def in_the_loop(optimizer: torch.optim.Optimizer, model: nn.Module, together: Batches) -> None:
    backward(model, together)
    CLIPS["by norm"](model)
    optimizer.step()
    optimizer.zero_grad()


def zeroed_in_place(optimizer: torch.optim.Optimizer, model: nn.Module, together: Batches) -> None:
    backward(model, together)
    CLIPS["by norm"](model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def in_the_closure(optimizer: torch.optim.Optimizer, model: nn.Module, together: Batches) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        backward(model, together)
        CLIPS["by norm"](model)
        return 0.0

    optimizer.step(closure)


def without_clipping(optimizer: torch.optim.Optimizer, model: nn.Module, together: Batches) -> None:
    backward(model, together)
    optimizer.step()
    optimizer.zero_grad()


def clip_what_it_holds(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """A step pre-hook that clips."""
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator, step: Train) -> Outcome:
    for task in range(TASKS):
        for together in grouped(task, 4):
            step(optimizer, model, together)
        if task + 1 < TASKS:
            synapses.consolidate()
    return outcome_of(model, synapses)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("step", [in_the_loop, zeroed_in_place, in_the_closure])
def test_wherever_it_is_clipped_around_an_optimizer_bit_for_bit(step: Train, name: str) -> None:
    """In the loop, in a closure as Lightning does, and with gradients that are zeroed in place: the plain loop."""
    plain = train_plainly(make_optimizer=lambda p: getattr(torch.optim, name)(p, lr=RATE), accumulate=4, clip=CLIP)
    model = small_model(torch.float32)
    assert_same(run(model, *made("hooks", name, model), step), plain)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("step", [zeroed_in_place, in_the_closure])
def test_wherever_it_is_clipped_with_the_synapses_inside_bit_for_bit(step: Train, name: str) -> None:
    """The same for an optimizer with the synapses inside, against its own plain loop."""
    plain, model = small_model(torch.float32), small_model(torch.float32)
    expected = run(plain, *made("inside", name, plain), in_the_loop)
    assert_same(run(model, *made("inside", name, model), step), expected)


@pytest.mark.parametrize(
    ("form", "when"),
    [("hooks", "before"), ("hooks", "after"), ("hooks", "attached again"), ("inside", "after"), ("fallback", "after")],
)
def test_a_step_hook_that_clips_bit_for_bit(form: str, when: str) -> None:
    """A step hook of the user that clips is seen, whether it was registered before the synapses were made or after."""
    with no_kernel() if form == "fallback" else nullcontext():
        form = "inside" if form == "fallback" else form
        plain, model = small_model(torch.float32), small_model(torch.float32)
        expected = run(plain, *made(form, "SGD", plain), in_the_loop)
        if when == "before":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
            optimizer.register_step_pre_hook(clip_what_it_holds)
            synapses = synapses_of(model, optimizer)
        else:
            optimizer, synapses = made(form, "SGD", model)
            optimizer.register_step_pre_hook(clip_what_it_holds)
        if when == "attached again":
            synapses.attach(optimizer)
        assert_same(run(model, optimizer, synapses, without_clipping), expected)


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/accumulation_and_clipping.py``."""
    with_synapses, without = first_task_accuracies(run_example("accumulation_and_clipping.py", tmp_path))
    assert with_synapses > without + 0.05
