"""The plain loop that every training stack is compared with: same data, same first weights, same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from oracle import assert_close, small_model, task_batches
from torch import Tensor, nn

import synaptic_intelligence as si

TASKS, STEPS = 3, 12
C, XI, RATE = 0.5, 0.05, 0.01

Batches = list[tuple[Tensor, Tensor]]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE)


def batches(task: int, dtype: torch.dtype = torch.float32) -> Batches:
    """The steps of a task: inputs ``[16, 6]``, labels of 3 classes."""
    return task_batches(task, STEPS, dtype)


def synapses_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> si.Consolidator:
    return si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)


@final
@dataclass(frozen=True)
class Outcome:
    """Everything that a stack must have in common with the plain loop, by canonical name, after the last step.

    Taken before the last task is consolidated, so that its path is there: two tasks are in omega, three in weights.
    """

    weights: dict[str, Tensor]
    omega: dict[str, Tensor]
    path: dict[str, Tensor]
    anchor: dict[str, Tensor]
    tasks: int


def outcome_of(model: nn.Module, synapses: si.Consolidator) -> Outcome:
    """Copy it from the bare model and its synapses."""

    def copied(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in named}

    weights = copied(model.named_parameters())
    omega, path, anchor = (copied(named.items()) for named in (synapses.omega, synapses.path, synapses.anchor))
    return Outcome(weights, omega, path, anchor, synapses.tasks)


def train_plainly(
    *,
    dtype: torch.dtype = torch.float32,
    make_optimizer: MakeOptimizer = adam,
    accumulate: int = 1,
    clip: float | None = None,
    of: Callable[[int], Batches] | None = None,
) -> Outcome:
    """Train three tasks with two lines added to an ordinary loop.

    ``accumulate`` batches make one step, with the mean of their losses; the norm of all gradients is clipped at
    ``clip``.
    """
    model = small_model(dtype)
    optimizer = make_optimizer(model.parameters())
    synapses = synapses_of(model, optimizer)
    for task in range(TASKS):
        for number, (x, y) in enumerate(batches(task, dtype) if of is None else of(task), start=1):
            (F.cross_entropy(model(x), y) / accumulate).backward()
            if number % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        if task + 1 < TASKS:
            synapses.consolidate()
    return outcome_of(model, synapses)


def assert_same(found: Outcome, expected: Outcome, *, weights: float = 0.0, importance: float = 0.0) -> None:
    """Fail unless both have the same names, and every tensor agrees by ``oracle.relative_difference``; 0: bit for bit.

    It also fails where there is nothing to compare: synapses without importance, path or movement.
    """
    assert found.tasks == expected.tasks
    for kind, bound in (("weights", weights), ("anchor", weights), ("omega", importance), ("path", importance)):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert all(bool(tensor.any()) for tensor in theirs.values()), f"{kind} of the plain loop is zero"
        if bound:
            assert_close(sorted(ours.items()), dict(sorted(theirs.items())), bound)
        else:
            assert sorted(ours) == sorted(theirs)
            different = [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)]
            assert not different, f"{kind} of {different} differs"
