"""The training loop, with the two lines that the synapses need, and what a step costs with and without them."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from protocol import Protocol
from torch import Tensor

import synaptic_intelligence as si


def new_optimizer(model: Any, protocol: Protocol) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, weight_decay=protocol.weight_decay, fused=True)


def new_synapses(model: Any, optimizer: torch.optim.Optimizer, protocol: Protocol, c: float) -> si.Consolidator:
    return si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=protocol.xi)  # the first line


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    *,
    rate: float,
    epochs: int,
    batch: int,
    order: torch.Generator,
    synapses: si.Consolidator | None = None,
) -> int:
    """Train for so many epochs, in an order drawn anew for each; return the number of steps."""
    shuffled = torch.cat([rows[torch.randperm(len(rows), generator=order)] for _ in range(epochs)])
    batches = shuffled.split(batch)
    for number, x in enumerate(batches):
        # Up over the first twentieth of the task, then straight down to zero.
        done = number / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(20 * (done + 1 / len(batches)), (1 - done) / 0.95, 1.0)
        step(model, optimizer, x)
    if synapses is not None:
        synapses.consolidate()  # the second line: a task has ended
    return len(batches)


def step(model: Any, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """One ordinary step, which the synapses need not appear in."""
    optimizer.zero_grad()
    model(input_ids=x, labels=x).loss.backward()
    optimizer.step()


def step_seconds(learners: dict[str, tuple[Any, torch.optim.Optimizer]], batches: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return each learner's median time for a step, of the processor; they step in turns on the same batches."""
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for x in batches:
        for name, (model, optimizer) in learners.items():
            before = time.process_time()
            step(model, optimizer, x)
            seconds[name].append(time.process_time() - before)
    return {name: median(found[1:]) for name, found in seconds.items()}  # the first makes the optimizer's state
