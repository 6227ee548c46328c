"""Synaptic intelligence once more, in the plainest form: the penalty is in the loss, and the path has its own backward.

It shares no code with the library, and is as slow as it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Loss = Callable[[], Tensor]


class NaiveSynapses:
    """Zenke et al. 2017, eqs. 3 to 5, one parameter after the other."""

    def __init__(self, model: nn.Module, c: float, xi: float) -> None:
        self.named = dict(model.named_parameters())
        self.c, self.xi = c, xi
        self.path = {name: torch.zeros_like(p) for name, p in self.named.items()}
        self.omega = {name: torch.zeros_like(p) for name, p in self.named.items()}
        self.anchor = {name: p.detach().clone() for name, p in self.named.items()}

    def step(self, optimizer: Optimizer, task_loss: Loss) -> None:
        parameters = list(self.named.values())
        gradients = torch.autograd.grad(task_loss(), parameters)
        optimizer.zero_grad()
        loss = task_loss()
        for name, p in self.named.items():
            loss = loss + self.c * (self.omega[name] * (p - self.anchor[name]) ** 2).sum()
        loss.backward()
        before = [p.detach().clone() for p in parameters]
        optimizer.step()
        for name, g, b, p in zip(self.named, gradients, before, parameters, strict=True):
            self.path[name] = self.path[name] - g * (p.detach() - b)

    def consolidate(self) -> None:
        for name, p in self.named.items():
            moved = p.detach() - self.anchor[name]
            self.omega[name] = torch.clamp(self.omega[name] + self.path[name] / (moved**2 + self.xi), min=0)
            self.anchor[name] = p.detach().clone()
            self.path[name] = torch.zeros_like(p)


def small_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """A network with 3 parameters' shapes: matrices, vectors, and a scalar gain."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)
    return model.to(dtype)


def task_batches(task: int, steps: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Batches of a small classification task; each task has other classes for the same inputs."""
    generator = torch.Generator().manual_seed(100 + task)
    rule = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    inputs = [torch.randn(16, 6, generator=generator, dtype=torch.float64) for _ in range(steps)]
    return [(x.to(dtype), (x @ rule).argmax(dim=1)) for x in inputs]


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, type(a)) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Loss:
    """Return the task loss of one batch as a function, so that it can be asked for twice."""
    return lambda: nn.functional.cross_entropy(model(x), y)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference over the largest absolute value."""
    scale = float(b.double().abs().max())
    difference = float((a.double() - b.double()).abs().max())
    return difference / scale if scale > 0 else difference


def assert_close(found: Iterable[tuple[str, Tensor]], expected: dict[str, Tensor], tolerance: float) -> None:
    """Fail unless every tensor agrees by :func:`relative_difference`."""
    values = dict(found)
    assert list(values) == list(expected)
    worst = {name: relative_difference(values[name].detach(), expected[name].detach()) for name in values}
    assert max(worst.values()) <= tolerance, worst
