"""A step that torch.compile makes is that of the hooks, is compiled as often as it must be, and fails in words."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from oracle import small_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from twins import Layout, Twins, compiled_with, count_rules, inside, needs_kernel, no_kernel, train

import synaptic_intelligence as si
from synaptic_intelligence.compiled import Compiled

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
]
HAS_CXX = any(map(shutil.which, ("g++", "clang++")))
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
@pytest.mark.skipif(not HAS_CXX, reason="there is no C++ compiler")
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


def test_gradients_that_come_and_go_are_compiled_for_so_many_sets_and_these_stay() -> None:
    counts = Counts()
    layouts: list[Layout] = [partial(torch.randn, size, dtype=torch.float64) for size in range(1, 6)]
    with no_kernel(), compiled_with(counts):
        twins = Twins("Adam", layouts, lr=0.1)

        def step(which: int) -> None:
            twins.step(0, which, lambda number, gradient: gradient if which >> number & 1 else None)

        for which in range(1, 17):
            step(which)
        assert counts.graphs == 16
        with pytest.warns(si.SynapseWarning, match="gradients come and go"):
            step(17)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with compiled_steps() as taken:
                for which in (3, 18, 4, 31):
                    step(which)
    twins.assert_equal()
    assert counts.graphs == 16
    assert taken == [2, 1]  # of 3 and of 4


@contextmanager
def compiled_steps() -> Iterator[list[int]]:
    """Note of how many parameters each compiled step is."""
    taken: list[int] = []
    run = Compiled.run

    def noted(self: Compiled, rows: Any, settings: Any) -> Tensor:
        taken.append(len(rows))
        return run(self, rows, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiled, "run", noted)
        yield taken


def test_parameters_that_are_replaced_are_not_compiled_anew() -> None:
    """As those of a sharded network are, whose local parts are other tensors in each step."""
    counts = Counts()
    with no_kernel(), compiled_with(counts):
        optimizer = inside("Adam", [("p", p := nn.Parameter(torch.ones(3)))])
        for _ in range(20):
            q = nn.Parameter(p.detach().clone())
            optimizer.param_groups[0]["params"][0] = q
            optimizer.state[q] = optimizer.state.pop(p)
            p = q
            p.grad = torch.ones(3)
            optimizer.step()
    assert counts.graphs == 1


@pytest.mark.parametrize(
    ("dtypes", "options", "why"),
    [
        ((torch.float32, torch.bfloat16), {}, r"'p1' \(torch.bfloat16, Parameter\), its gradient"),
        ((torch.float16,), {}, r"'p0' \(torch.float16, Parameter\), its gradient"),
        ((torch.float32,), {"capturable": True}, "capturable and differentiable steps are torch's own"),
    ],
)
@pytest.mark.filterwarnings("ignore:parameters are torch")
def test_what_is_not_compiled_is_said_once_and_stepped_around(
    dtypes: tuple[torch.dtype, ...], options: dict[str, Any], why: str
) -> None:
    """Of narrow parameters the path takes the step that was stored, and compiled code would not round on the way."""
    with no_kernel(), compiled_with(None) as runs:
        if options:
            # Not stepped: torch has capturable steps on devices alone.
            optimizer = inside("Adam", [("p0", p := nn.Parameter(torch.ones(2)))])
            p.grad = torch.ones(2)
            assert optimizer._walk.prepare([])
            optimizer.param_groups[0].update(options)
            with pytest.warns(si.SynapseWarning, match=why):
                assert not optimizer._walk.prepare([])
            assert not optimizer._walk.prepare([])
        else:
            layouts: list[Layout] = [partial(torch.ones, 7, 9, dtype=dtype) for dtype in dtypes]
            twins = Twins("Adam", layouts, lr=0.1)
            with pytest.warns(si.SynapseWarning, match=f"compiled=True has no effect on these steps: {why}"):
                twins.step(0, 0)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                twins.step(0, 1)
            twins.assert_equal(0.0, 0.0)
    assert runs == []


def test_a_count_of_steps_that_was_loaded_onto_the_device_is_kept_on_the_cpu() -> None:
    p = nn.Parameter(torch.ones(2))
    with no_kernel(), compiled_with(None):
        optimizer = inside("Adam", [("p", p)])
        p.grad = torch.ones(2)
        optimizer.step()

        class Elsewhere(Tensor):
            """As one on a device: to read it would be to wait."""

            is_cpu = False

            def item(self) -> float:
                raise AssertionError("read where it lies")

            def cpu(self, *_: Any, **__: Any) -> Tensor:
                return self.as_subclass(Tensor).clone()

        optimizer.state[p]["step"] = optimizer.state[p]["step"].as_subclass(Elsewhere)
        optimizer.step()
    assert type(optimizer.state[p]["step"]) is Tensor
    assert optimizer.state[p]["step"].item() == 2


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.skipif(not HAS_CXX, reason="there is no C++ compiler")
def test_increments_that_are_not_finite_add_nothing_and_are_counted() -> None:
    p = nn.Parameter(torch.ones(37))
    with no_kernel(), compiled_with("inductor"):
        optimizer = inside("SGD", [("p", p)], lr=1.0)
        p.grad = torch.ones(37)
        p.grad[::5] = 1e30  # the product overflows
        optimizer.step()
    assert optimizer.synapses.path["p"].tolist() == [0.0 if i % 5 == 0 else 1.0 for i in range(37)]
    with pytest.warns(si.SynapseWarning, match="1 optimizer steps .* not finite"):
        optimizer.consolidate()


def test_a_fused_step_that_was_loaded_for_the_device_is_torchs_own() -> None:
    class Elsewhere(nn.Parameter):
        is_cpu = False

    p = Elsewhere(torch.ones(2))
    with no_kernel(), compiled_with(None):
        optimizer = inside("Adam", [("p", p)])
        optimizer.param_groups[0]["fused"] = True
        p.grad = torch.ones(2)
        with pytest.warns(si.SynapseWarning, match="no effect on these steps: with fused=True, as it was loaded"):
            assert not optimizer._walk.prepare([])
        # SGD counts no steps.
        optimizer = inside("SGD", [("p", q := nn.Parameter(torch.ones(2)))])
        optimizer.param_groups[0]["fused"] = True
        q.grad = torch.ones(2)
        assert optimizer._walk.prepare([])


def test_a_count_of_steps_on_the_device_is_refused() -> None:
    with FakeTensorMode():
        p = nn.Parameter(torch.ones(2, device="cuda"))
        with pytest.raises(ValueError, match="compiled=True takes the place of fused=True"):
            si.optim.Adam([("p", p)], fused=True, compiled=True, c=0.1, xi=0.1)
