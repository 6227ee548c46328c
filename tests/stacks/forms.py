"""Both forms of the synapses, and a shadow that does their sums once more beside any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close
from stacks.plain import RATE, TASKS, XI, Batches, C, Outcome, batches, outcome_of, synapses_of
from torch import Tensor, nn

import synaptic_intelligence as si

NAMES = ["SGD", "Adam", "AdamW"]

each_form = pytest.mark.parametrize("form", ["hooks", "inside"])
each_name = pytest.mark.parametrize("name", NAMES)

Step = Callable[[torch.optim.Optimizer, nn.Module, Tensor, Tensor], None]


def made(form: str, name: str, model: nn.Module, **options: Any) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    """Return an optimizer of torch and the synapses around it, or one with the synapses inside."""
    options = {"lr": RATE, **options}
    if form == "hooks":
        optimizer = getattr(torch.optim, name)(model.parameters(), **options)
        return optimizer, synapses_of(model, optimizer)
    optimizer = getattr(si.optim, name)(model.named_parameters(), c=C, xi=XI, **options)
    return optimizer, optimizer.synapses


def plain_step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    synapses: si.Consolidator,
    step: Step = plain_step,
    *,
    of: Callable[[int], Batches] = batches,
    consolidate: Callable[[], object] | None = None,
) -> Outcome:
    """Train three tasks, each batch by ``step``, and return what the stacks must have in common."""
    for task in range(TASKS):
        for x, y in of(task):
            step(optimizer, model, x, y)
        if task + 1 < TASKS:
            (synapses.consolidate if consolidate is None else consolidate)()
    return outcome_of(model, synapses)


@final
class Shadow:
    """What a run must come to, from what each step was given: eqs. 3 to 5 in float64, with clones and by hand.

    In low precision the last bit of a weight may decide how it is rounded, so two runs drift apart although both are
    right. The shadow starts each step from the run's own weights, and its twin of the optimizer takes the same step,
    from the gradient with the penalty's added. It shares no code with the library.
    """

    def __init__(self, model: nn.Module, name: str, *, bound: float = 1e-6, **options: Any) -> None:
        self.bound = bound  # for the weights after each step, by oracle.relative_difference
        self.named = dict(model.named_parameters())
        self.twin = {name: nn.Parameter(p.detach().clone()) for name, p in self.named.items()}
        self.optimizer = getattr(torch.optim, name)(self.twin.values(), **{"lr": RATE, **options})
        self.anchor = {name: p.detach().double().clone() for name, p in self.named.items()}
        self.path = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}
        self.omega = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}
        self.tasks = 0

    @contextmanager
    def step(self, gradients: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Return a context for one step; the task's gradients are what ``p.grad`` is when it begins, or these."""
        before = {name: p.detach().clone() for name, p in self.named.items()}
        given = {name: p.grad for name, p in self.named.items()} if gradients is None else gradients
        task = {name: g.detach().clone() for name, g in given.items() if g is not None}
        yield
        for name, g in task.items():
            twin, old = self.twin[name], before[name].double()
            twin.data.copy_(before[name])
            twin.grad = (g.double() + 2 * C * self.omega[name] * (old - self.anchor[name])).to(g.dtype)
            self.path[name] = self.path[name] - g.double() * (self.named[name].detach().double() - old)
        self.optimizer.step()
        assert_close(self.named.items(), dict(self.twin), self.bound)

    def consolidate(self) -> None:
        for name, p in self.named.items():
            now = p.detach().double().clone()
            raised = self.omega[name] + self.path[name] / ((now - self.anchor[name]) ** 2 + XI)
            self.omega[name], self.anchor[name] = raised.clamp(min=0), now
            self.path[name] = torch.zeros_like(now)
        self.tasks += 1

    @property
    def outcome(self) -> Outcome:
        weights = {name: p.detach().clone() for name, p in self.twin.items()}
        return Outcome(weights, dict(self.omega), dict(self.path), dict(self.anchor), self.tasks)
