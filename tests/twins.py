"""Two runs side by side: torch's optimizer with hooks around it, and the optimizer with the synapses inside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close, task_batches
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence import compiled as compile_module
from synaptic_intelligence import native
from synaptic_intelligence.optim.inside import Inside

C, XI = 0.5, 0.05

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.03}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.03, "nesterov": True, "maximize": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "foreach": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "fused": True}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.7, 0.95), "eps": 1e-4}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.95)}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.03}),
    ("Adam", {"lr": 0.01, "maximize": True}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.03, "maximize": True}),
    ("Adam", {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.3}),
    ("Adam", {"lr": 0.01, "foreach": True}),
    ("Adam", {"lr": 0.01, "fused": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "maximize": True}),
]

HAS_KERNEL = not isinstance(native.kernel(torch.float32), str)
needs_kernel = pytest.mark.skipif(not HAS_KERNEL, reason="there is no C compiler")


def label(value: Any) -> str | None:
    return "-".join(key for key in value if key != "lr") or "plain" if isinstance(value, dict) else None


Layout = Callable[[], Tensor]
Gradient = Callable[[int, Tensor], Tensor | None]  # of a parameter's number and value


@contextmanager
def no_kernel() -> Iterator[None]:
    """A machine without a compiler, which was warned of before."""
    reason = "this test has no kernel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernel", lambda dtype: reason)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", si.SynapseWarning)
            native.warn_of_no_kernel(reason)
        yield


@contextmanager
def count_rules() -> Iterator[list[str]]:
    """Note the rules of the kernel that are called for any tensor at all."""
    called: list[str] = []
    run = native.run

    def counted(rule: native.Rule, tensors: Sequence[native.Row], settings: Any) -> bool:
        called.extend([rule] if tensors else [])
        return run(rule, tensors, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "run", counted)
        yield called


@contextmanager
def compiled_with(backend: Any) -> Iterator[list[Any]]:
    """What `inside` makes is compiled, by this backend of torch.compile, or is not, but would have been.

    Gives a list that grows by what is compiled.
    """
    runs: list[Any] = []

    def made(rule: Any) -> Any:
        runs.append(rule)
        return rule if backend is None else compiled(rule, backend=backend)

    compiled = compile_module._compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile_module, "_compile", made)
        patch.setitem(_OPTIONS, "compiled", True)
        yield runs


_OPTIONS: dict[str, Any] = {"c": C, "xi": XI}


def inside(name: str, params: Any, **options: Any) -> Any:
    """One of si.optim, by name."""
    optimizer = getattr(si.optim, name)(params, **{**_OPTIONS, **options})
    assert isinstance(optimizer, Inside)
    return optimizer


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: int,
    steps: int = 10,
    *,
    first: int = 0,
    sign: float = 1.0,
) -> None:
    dtype = next(model.parameters()).dtype
    for x, y in task_batches(task, steps, dtype)[first:]:
        optimizer.zero_grad()
        (sign * F.cross_entropy(model(x), y)).backward()
        optimizer.step()


@final
class Twins:
    """Parameters of any layout under both forms; their gradients are those of a quadratic task for each."""

    def __init__(
        self, name: str, layouts: Sequence[Layout], groups: Any = None, *, omega_dtype: Any = None, **options: Any
    ) -> None:
        self.named: list[dict[str, nn.Parameter]] = []
        self.optimizers: list[Any] = []
        self.synapses: list[si.Consolidator] = []
        for form in ("hooks", "inside"):
            torch.manual_seed(3)
            named = {f"p{i}": nn.Parameter(layout(), requires_grad=True) for i, layout in enumerate(layouts)}
            params: Any = list(named.items()) if groups is None else groups(list(named.items()))
            if form == "inside":
                self.optimizers.append(inside(name, params, omega_dtype=omega_dtype, **options))
                self.synapses.append(self.optimizers[-1].synapses)
            else:
                self.optimizers.append(getattr(torch.optim, name)(params, **options))
                watched = self.optimizers[-1]
                self.synapses.append(
                    si.SynapticIntelligence(named.items(), watched, c=C, xi=XI, omega_dtype=omega_dtype)
                )
            self.named.append(named)

    def step(self, task: int, number: int, layout: Gradient | None = None) -> None:
        for named, optimizer in zip(self.named, self.optimizers, strict=True):
            self.gradients(named, task, number, layout)
            optimizer.step()

    @staticmethod
    def gradients(named: dict[str, nn.Parameter], task: int, number: int, layout: Gradient | None = None) -> None:
        """Set the gradients of one step of a task."""
        for i, p in enumerate(named.values()):
            generator = torch.Generator().manual_seed(1000 * task + 10 * number + i)
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            gradient = p.detach() - float(task) + 0.3 * noise
            p.grad = gradient if layout is None else layout(i, gradient)

    def run(self, layout: Gradient | None = None, tasks: int = 3, steps: int = 6) -> None:
        for task in range(tasks):
            for number in range(steps):
                self.step(task, number, layout)
            if task + 1 < tasks:
                for synapses in self.synapses:
                    synapses.consolidate()

    def assert_equal(self, weights: float = 1e-12, importance: float = 1e-12) -> None:
        (hooked, ours), (theirs, own) = self.named, self.synapses
        some = {name for name, p in hooked.items() if p.numel()}
        assert_close(
            [(n, p) for n, p in ours.items() if n in some], {n: p for n, p in hooked.items() if n in some}, weights
        )
        for kind in ("path", "omega", "anchor"):
            found, expected = getattr(own, kind), getattr(theirs, kind)
            assert list(found) == list(expected)
            assert_close(
                [(n, t) for n, t in found.items() if n in some],
                {n: t for n, t in expected.items() if n in some},
                weights if kind == "anchor" else importance,
            )
        assert any(bool((omega > 0).any()) for omega in own.omega.values()) or own.tasks == 0
