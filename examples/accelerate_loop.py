"""Permuted MNIST, two tasks, in a loop of Accelerate, with synapses and without.

python examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.integrations.accelerate import register_synapses
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST = 2560, 1000


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float((model(task.test_inputs[:TEST] / 255).argmax(1) == task.test_targets[:TEST]).float().mean())


def learn(tasks: tuple[Task, ...], c: float) -> list[float]:
    """Train on one task after the other; return the accuracy on each at the end."""
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    synapses = register_synapses(accelerator, model, optimizer, c=c, xi=0.1)  # the first line
    for task in tasks:
        data = TensorDataset(task.train_inputs[:TRAIN] / 255, task.train_targets[:TRAIN])
        loader = accelerator.prepare(DataLoader(data, batch_size=64, shuffle=True))
        for _ in range(2):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
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
