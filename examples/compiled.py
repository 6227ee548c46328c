"""Permuted MNIST, two tasks, with a compiled model and a compiled optimizer step, with synapses and without.

python examples/compiled.py             # compiles without generating code: starts at once, on any machine
python examples/compiled.py inductor    # torch's default: machine code, after some 20 seconds; needs a C++ compiler
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import nn

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST, BATCH = 2500, 1000, 50
BACKEND = sys.argv[1] if len(sys.argv) > 1 else "aot_eager"


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float((model(task.test_inputs[:TEST] / 255).argmax(1) == task.test_targets[:TEST]).float().mean())


def learn(tasks: tuple[Task, ...], c: float) -> list[float]:
    """Train on one task after the other; return the accuracy on each at the end."""
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    model = torch.compile(bare, backend=BACKEND)
    optimizer = torch.optim.Adam(bare.parameters(), lr=1e-2)
    synapses = si.SynapticIntelligence(bare.named_parameters(), optimizer, c=c, xi=0.1)  # the first line
    step = torch.compile(optimizer.step, backend=BACKEND)
    for task in tasks:
        for _ in range(2):
            for batch in torch.randperm(TRAIN).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(task.train_inputs[batch] / 255), task.train_targets[batch]).backward()
                step()
        synapses.consolidate()  # the second line
    return [accuracy(bare, task) for task in tasks]


if __name__ == "__main__":
    tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
    for c in (1.0, 0.0):
        first, second = learn(tasks, c)
        how = "with" if c else "without"
        print(f"{how} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
