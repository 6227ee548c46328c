"""A stream of two tasks that nobody announces, and a network with synapses that learns it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import synaptic_intelligence as si
from synaptic_intelligence.triggers import Plateau, Trigger

STEPS = 60
"""Of each task."""


def two_tasks() -> list[tuple[Tensor, Tensor]]:
    """Points in four of twelve directions each, with a common offset: what is learnt second undoes the first."""
    draw = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=draw, dtype=torch.float64)).Q
    first, second = (torch.randn(64, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    return [
        (first @ directions[:4] + 0.5 * directions[8], (first[:, 0] > 0).long()),
        (second @ directions[4:8] + 0.5 * directions[8], (second[:, 0] < 0).long()),
    ]


def watched() -> Plateau:
    return Plateau(window=5, mean_below=0.1, std_below=0.02)


class Stream:
    """A network in the middle of the two tasks, its synapses around an optimizer or inside."""

    def __init__(self, trigger: Trigger | None, *, c: float = 0.1, inside: bool = False) -> None:
        self.model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
        if inside:
            optimizer = si.optim.Adam(self.model.named_parameters(), lr=0.02, c=c, xi=1e-3)
            self.optimizer: torch.optim.Optimizer = optimizer
            self.synapses = optimizer.synapses
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
            self.synapses = si.SynapticIntelligence(self.model.named_parameters(), self.optimizer, c=c, xi=1e-3)
        self.synapses.trigger = trigger
        self.losses: list[float] = []
        self.consolidated: list[int] = []

    def train(self, first: int, last: int, *, told: Sequence[int] = (), decay: float = 1.0, rank: int = -1) -> Stream:
        """Take the steps from ``first`` to ``last``; on a rank, with every second point."""
        batches = [batch for batch in two_tasks() for _ in range(STEPS)]
        forward = self.model if rank < 0 else DistributedDataParallel(self.model)
        for step, (x, y) in enumerate(batches[first - 1 : last], first):
            if rank >= 0:
                x, y = x[rank::2], y[rank::2]
            self.optimizer.zero_grad()
            loss = F.cross_entropy(forward(x), y)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
            if self.synapses.trigger is not None:
                if self.synapses.observe(loss):
                    self.consolidated.append(step)
            elif step in told:
                self.synapses.consolidate(decay=decay)
        return self

    def loss_on(self, task: int) -> float:
        x, y = two_tasks()[task]
        return F.cross_entropy(self.model(x), y).item()

    def state(self) -> dict[str, Any]:
        """Weights, moments and synapses, without the trigger."""
        synapses = {key: value for key, value in self.synapses.state_dict().items() if key != "trigger"}
        return copy.deepcopy({"model": self.model.state_dict(), "synapses": synapses})


def train_on_a_rank(rank: int) -> tuple[list[int], list[float], dict[str, Any]]:
    stream = Stream(watched()).train(1, 2 * STEPS, rank=rank)
    return stream.consolidated, stream.losses, stream.state()
