"""A step that torch.compile makes is that of the hooks, is compiled as often as it must be, and fails in words."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from oracle import small_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from twins import Layout, Twins, compiled_with, count_rules, inside, needs_kernel, no_kernel, train

import synaptic_intelligence as si

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
]
each_optimizer = pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=["SGD", "Adam", "AdamW"])
LAYOUTS: list[Layout] = [
    lambda: torch.randn(7, 9),
    lambda: torch.randn(9, 7).T,
    lambda: torch.randn(4, 3, 3, 2).to(memory_format=torch.channels_last),
    lambda: torch.randn(()),
]


class Counts:
    """A backend of torch.compile that compiles nothing, and counts what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
@pytest.mark.parametrize(("name", "coarse"), [("SGD", False), ("Adam", False), ("AdamW", True)])
def test_compiled_steps_are_those_of_the_hooks(name: str, coarse: bool) -> None:
    with no_kernel(), compiled_with("inductor") as runs:
        twins = Twins(name, LAYOUTS, omega_dtype=torch.bfloat16 if coarse else None, **dict(OPTIMIZERS)[name])
        twins.run()
    twins.assert_equal(1e-5, 1e-4)
    assert len(runs) == 2  # without omega yet, and with it


@each_optimizer
def test_what_torch_compile_captures_has_the_numbers_of_the_hooks(name: str, options: dict[str, Any]) -> None:
    with no_kernel(), compiled_with("aot_eager"):
        twins = Twins(name, [lambda: torch.randn(7, 9).double(), lambda: torch.randn(()).double()], **options)
        twins.run()
    twins.assert_equal()


def test_neither_a_learning_rate_nor_a_strength_compiles_anew() -> None:
    counts, model = Counts(), small_model()
    with no_kernel(), compiled_with(counts):
        optimizer = inside("Adam", model.named_parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for task in range(4):
            for _ in range(3):
                train(model, optimizer, task, 2)
                schedule.step()
            optimizer.consolidate()
            optimizer.synapses.c += 0.1
            optimizer.reset_moments()
    assert counts.graphs == 2  # without a pull, and with it


def test_groups_of_their_own_are_one_graph() -> None:
    counts, model = Counts(), small_model()
    groups = [{"params": [named], "lr": 0.01 * (i + 1)} for i, named in enumerate(model.named_parameters())]
    with no_kernel(), compiled_with(counts):
        train(model, inside("Adam", groups), 0, 3)
    assert counts.graphs == 1


def test_the_tenth_optimizer_is_compiled_too() -> None:
    """Dynamo gives up the ninth time that one piece of code is compiled, with a line in its log alone."""
    counts = Counts()
    with no_kernel(), compiled_with(counts):
        for _ in range(10):
            model = small_model()
            train(model, inside("SGD", model.named_parameters(), lr=0.1), 0, 2)
    assert counts.graphs == 10


@needs_kernel
def test_where_there_is_a_kernel_nothing_is_compiled() -> None:
    model = small_model(torch.float32)
    with compiled_with("inductor") as runs, count_rules() as called:
        train(model, inside("Adam", model.named_parameters(), lr=0.1), 0, 2)
    assert runs == []
    assert called == ["adam_step"] * 2


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no such luck\nand more of it")


@each_optimizer
def test_what_cannot_be_compiled_is_told_once_and_steps_on(name: str, options: dict[str, Any]) -> None:
    with no_kernel(), compiled_with(broken) as runs:
        twins = Twins(name, [lambda: torch.randn(7, 9).double()], **options)
        with pytest.warns(si.SynapseWarning, match="several passes.*compiled step was given up: .*no such luck$"):
            twins.step(0, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            twins.run()
    twins.assert_equal()
    assert len(runs) == 1


def test_gradients_that_come_and_go_are_compiled_for_as_long_as_that_pays() -> None:
    counts = Counts()
    with no_kernel(), compiled_with(counts):
        twins = Twins("Adam", [lambda: torch.randn(3).double()] * 5, lr=0.1)

        def some(which: int, number: int, gradient: Tensor) -> Tensor | None:
            return gradient if which >> number & 1 else None

        for which in range(1, 17):
            twins.step(0, which, lambda number, gradient, which=which: some(which, number, gradient))  # type: ignore[misc]
        assert counts.graphs == 16
        with pytest.warns(si.SynapseWarning, match="met more than 16 sets of tensors"):
            twins.step(0, 17, lambda number, gradient: some(17, number, gradient))
        twins.run()
    twins.assert_equal()
    assert counts.graphs == 16


@pytest.mark.filterwarnings("ignore:.*bfloat16")
def test_narrow_parameters_are_stepped_around_as_what_they_store_is_rounded() -> None:
    with no_kernel(), compiled_with(None) as runs:
        twins = Twins("Adam", [lambda: torch.randn(7, 9).bfloat16()], lr=0.1)
        twins.run()
    twins.assert_equal(0.0, 0.0)
    assert runs == []


def test_increments_that_are_not_finite_add_nothing_and_are_counted() -> None:
    p = nn.Parameter(torch.ones(2))
    with no_kernel(), compiled_with("aot_eager"):
        optimizer = inside("SGD", [("p", p)], lr=1.0)
        p.grad = torch.tensor([1e30, 1.0])
        optimizer.step()
    assert torch.equal(optimizer.synapses.path["p"], torch.tensor([0.0, 1.0]))
    with pytest.warns(si.SynapseWarning, match="not finite"):
        optimizer.consolidate()


def test_a_count_of_steps_on_the_device_is_refused() -> None:
    with FakeTensorMode():
        p = nn.Parameter(torch.ones(2, device="cuda"))
        with pytest.raises(ValueError, match="compiled=True takes the place of fused=True"):
            si.optim.Adam([("p", p)], fused=True, compiled=True, c=0.1, xi=0.1)
