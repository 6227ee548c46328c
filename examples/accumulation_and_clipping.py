"""Permuted MNIST, two tasks, with accumulated and clipped gradients, with synapses and without.

python examples/accumulation_and_clipping.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST, BATCH, ACCUMULATE, CLIP = 2500, 1000, 50, 2, 1.0


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float((model(task.test_inputs[:TEST] / 255).argmax(1) == task.test_targets[:TEST]).float().mean())


def learn(tasks: tuple[Task, ...], c: float) -> list[float]:
    """Train on one task after the other; return the accuracy on each at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=0.1)  # the first line
    for task in tasks:
        for _ in range(3):
            for number, batch in enumerate(torch.randperm(TRAIN).split(BATCH), start=1):
                loss = F.cross_entropy(model(task.train_inputs[batch] / 255), task.train_targets[batch])
                (loss / ACCUMULATE).backward()
                if number % ACCUMULATE == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), CLIP)  # the path takes the clipped gradient
                    optimizer.step()
                    optimizer.zero_grad()
        synapses.consolidate()  # the second line
    return [accuracy(model, task) for task in tasks]


if __name__ == "__main__":
    tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
    for c in (1.0, 0.0):
        first, second = learn(tasks, c)
        how = "with" if c else "without"
        print(f"{how} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
