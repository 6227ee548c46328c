"""Whatever the shapes, dtypes and groups: the synapses go on from where they were saved, and compute the equations."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.functional import consolidated_omega, path_increment, surrogate_loss

XI = 0.1
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (5,), (2, 3), (3, 0), (2, 1, 2, 3)]
LOW = (torch.bfloat16, torch.float16)


@final
@dataclass(frozen=True)
class Part:
    """One parameter of a random model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    group: int
    frozen: bool
    idle: tuple[bool, ...]  # in which of the steps it gets no gradient, over and over again


parts = st.builds(
    Part,
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.float64, *LOW]),
    group=st.integers(0, 2),
    frozen=st.sampled_from([False, False, False, True]),
    idle=st.tuples(st.booleans(), st.just(False), st.booleans()),
)
models = st.lists(parts, min_size=1, max_size=5).filter(lambda found: not all(part.frozen for part in found))
# The strength of each group: its own, none of its own, or no synapses at all.
strengths = st.tuples(st.sampled_from([0.5, "default"]), *[st.sampled_from([0.0, 0.3, "default", None])] * 2)
optimizers = st.sampled_from(["SGD", "Adam"])


@final
class Run:
    """A random model in training. Runs of the same description go the same way, to the bit."""

    def __init__(self, model: list[Part], strength: tuple[Any, ...], optimizer: str, *, maximize: bool = False) -> None:
        torch.manual_seed(3)
        self.model, self.strength, self.maximize = model, strength, maximize
        self.parameters = {
            f"p{i}": nn.Parameter(torch.randn(part.shape).to(part.dtype), requires_grad=not part.frozen)
            for i, part in enumerate(model)
        }
        groups = []
        for index, c in enumerate(strength):
            members = [p for p, part in zip(self.parameters.values(), model, strict=True) if part.group == index]
            groups.append({"params": members, **({} if c == "default" else {"c": c})})
        self.optimizer: torch.optim.Optimizer
        if optimizer == "SGD":
            self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, maximize=maximize)
        else:
            self.optimizer = torch.optim.Adam(groups, lr=0.05, maximize=maximize)
        low = any(part.dtype in LOW and self.strength[part.group] is not None for part in model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.synapses = si.SynapticIntelligence(self.parameters.items(), self.optimizer, c=0.7, xi=XI)
        assert [w.category for w in caught] == [si.SynapseWarning] * low

    def gradients(self, number: int) -> dict[str, Tensor | None]:
        generator = torch.Generator().manual_seed(number)
        found: dict[str, Tensor | None] = {}
        for (name, p), part in zip(self.parameters.items(), self.model, strict=True):
            gradient = torch.randn(p.shape, generator=generator).to(p.dtype)
            found[name] = None if part.frozen or part.idle[number % 3] else gradient
        return found

    def step(self, number: int) -> dict[str, Tensor | None]:
        gradients = self.gradients(number)
        for name, p in self.parameters.items():
            p.grad = gradients[name]
        self.optimizer.step()
        for name, p in self.parameters.items():
            assert p.grad is gradients[name]
        return gradients

    def steps(self, first: int, last: int, consolidate_after: tuple[int, ...]) -> None:
        with warnings.catch_warnings():
            # Right where nothing has importance, as with empty tensors alone.
            warnings.filterwarnings("ignore", "the penalty is exactly zero", si.SynapseWarning)
            for number in range(first, last):
                self.step(number)
                if number in consolidate_after:
                    self.synapses.consolidate()

    def everything(self) -> dict[str, Any]:
        synapses = self.synapses
        return {
            "parameters": dict(self.parameters),
            "omega": dict(synapses.omega),
            "anchor": dict(synapses.anchor),
            "path": dict(synapses.path),
            "penalty": {"penalty": synapses.penalty()},
            "numbers": {"tasks": torch.tensor(synapses.tasks), "steps": torch.tensor(synapses.state_dict()["steps"])},
        }


def assert_same_bits(one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]]) -> None:
    for kind, tensors in one.items():
        assert set(tensors) == set(other[kind])
        for name, t in tensors.items():
            assert t.dtype == other[kind][name].dtype, (kind, name)
            assert torch.equal(t, other[kind][name]), (kind, name)


def wide(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float64, copy=True)


def protected(model: list[Part], strength: tuple[Any, ...]) -> bool:
    return any(strength[part.group] is not None for part in model)


@settings(max_examples=40)
@given(models, strengths, optimizers, st.integers(0, 7), st.sampled_from(["file", "state", "pickled state"]))
def test_saved_anywhere_and_loaded_goes_on_to_the_same_bits(
    model: list[Part], strength: tuple[Any, ...], optimizer: str, stop: int, how: str
) -> None:
    if not protected(model, strength):
        return
    run, uninterrupted = Run(model, strength, optimizer), Run(model, strength, optimizer)
    ends, last = (2, 5), 8
    uninterrupted.steps(0, last, ends)
    run.steps(0, stop, ends)

    resumed = Run(model, strength, optimizer)
    resumed.steps(20, 22, ())  # so that it is unlike the run
    with torch.no_grad():
        for name, p in resumed.parameters.items():
            p.copy_(run.parameters[name])
    resumed.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    if how == "file":
        with tempfile.TemporaryDirectory() as folder:
            run.synapses.save(Path(folder) / "importance.safetensors")
            resumed.synapses.load(Path(folder) / "importance.safetensors")
    elif how == "state":
        resumed.synapses.load_state_dict(run.synapses.state_dict())
    else:
        buffer = io.BytesIO()
        torch.save(run.synapses.state_dict(), buffer)
        buffer.seek(0)
        resumed.synapses.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_bits(resumed.everything(), run.everything())
    resumed.steps(stop, last, ends)
    assert_same_bits(resumed.everything(), uninterrupted.everything())


@settings(max_examples=40)
@given(models, strengths, optimizers, st.booleans())
def test_two_tasks_are_the_equations(
    model: list[Part], strength: tuple[Any, ...], optimizer: str, maximize: bool
) -> None:
    if not protected(model, strength):
        return
    run = Run(model, strength, optimizer, maximize=maximize)
    synapses = run.synapses
    names = [f"p{i}" for i, part in enumerate(model) if strength[part.group] is not None]
    assert list(synapses.omega) == names
    omega = {name: torch.zeros_like(run.parameters[name], dtype=torch.float64) for name in names}
    anchor = {name: wide(run.parameters[name]) for name in names}
    for task in range(2):
        path = {name: torch.zeros_like(t) for name, t in omega.items()}
        for number in range(3):
            before = {name: wide(run.parameters[name]) for name in names}
            gradients = run.step(number)
            for name in names:
                g = gradients[name]
                if g is not None:
                    delta = wide(run.parameters[name]) - before[name]
                    path[name] += path_increment(-g.double() if maximize else g.double(), delta)
        c = {f"p{i}": strength[part.group] for i, part in enumerate(model)}
        c = {name: 0.7 if value == "default" else value for name, value in c.items()}
        penalty = sum(
            float(surrogate_loss(wide(run.parameters[name]), anchor[name], omega[name], c[name])) for name in names
        )
        torch.testing.assert_close(float(synapses.penalty()), penalty, rtol=1e-5, atol=1e-6)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the penalty is exactly zero", si.SynapseWarning)
            ended = synapses.consolidate()
        assert synapses.tasks == task + 1
        for name in names:
            p = wide(run.parameters[name])
            omega[name] = consolidated_omega(omega[name], path[name], p - anchor[name], XI)
            anchor[name] = p
            torch.testing.assert_close(ended[name].double(), path[name], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(synapses.omega[name].double(), omega[name], rtol=1e-4, atol=1e-5)
            assert torch.equal(synapses.anchor[name].double(), p)
            assert not bool(synapses.path[name].any())


@settings(max_examples=25)
@given(models, optimizers)
def test_the_grouping_of_parameters_does_not_matter(model: list[Part], optimizer: str) -> None:
    # Groups that differ in nothing are one group.
    scattered = Run(model, ("default",) * 3, optimizer)
    together = Run([Part(p.shape, p.dtype, 0, p.frozen, p.idle) for p in model], ("default",) * 3, optimizer)
    scattered.steps(0, 8, (2, 5))
    together.steps(0, 8, (2, 5))
    found, expected = scattered.everything(), together.everything()
    penalty, other = found.pop("penalty")["penalty"], expected.pop("penalty")["penalty"]
    assert_same_bits(found, expected)
    torch.testing.assert_close(penalty, other)  # a sum in another order


@settings(max_examples=25)
@given(models, optimizers)
def test_without_strength_the_synapses_only_watch(model: list[Part], optimizer: str) -> None:
    watched, alone = Run(model, (0.0,) * 3, optimizer), Run(model, (0.0,) * 3, optimizer)
    watched.steps(0, 8, (2, 5))
    with alone.synapses.paused():
        alone.steps(0, 8, ())
    assert_same_bits({"parameters": dict(alone.parameters)}, {"parameters": dict(watched.parameters)})
    assert float(watched.synapses.penalty()) == 0


@settings(max_examples=25)
@given(models, optimizers, st.integers(0, 2), st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_a_gradient_that_is_not_finite_adds_nothing_but_is_told(
    model: list[Part], optimizer: str, number: int, value: float
) -> None:
    run = Run(model, ("default",) * 3, optimizer)
    before = {name: t.clone() for name, t in run.synapses.path.items()}
    gradients = run.gradients(number)
    spoilt = False
    for name, p in run.parameters.items():
        g = gradients[name]
        p.grad = g if g is None else torch.full_like(g, value)
        spoilt |= g is not None and g.numel() > 0
    run.optimizer.step()
    for name, t in run.synapses.path.items():
        assert torch.equal(t, before[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.synapses.state_dict()
        run.synapses.state_dict()  # said once
    assert ["1 optimizer steps had gradients" in str(w.message) for w in caught] == [True] * spoilt


def test_synapses_on_empty_tensors_alone_work() -> None:
    p = nn.Parameter(torch.zeros(0, 3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=XI)
    p.grad = torch.zeros(0, 3)
    optimizer.step()
    assert synapses.consolidate()["w"].shape == (0, 3)
    assert synapses.omega["w"].shape == (0, 3)
    assert float(synapses.penalty()) == 0


def test_a_warning_that_is_made_an_error_leaves_no_half_made_synapses() -> None:
    p = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(si.SynapseWarning, match="bfloat16"):  # pytest makes it an error
        si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=XI)
    with pytest.warns(si.SynapseWarning, match="bfloat16"):
        si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=XI)
