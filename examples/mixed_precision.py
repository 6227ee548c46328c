"""Permuted MNIST, two tasks, with autocast and GradScaler, with synapses and without.

python examples/mixed_precision.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST, BATCH = 2500, 1000, 50
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def images(pixels: Tensor) -> Tensor:
    return pixels.to(DEVICE) / 255


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        found = model(images(task.test_inputs[:TEST])).argmax(1).cpu()
    return float((found == task.test_targets[:TEST]).float().mean())


def learn(tasks: tuple[Task, ...], c: float) -> list[float]:
    """Train on one task after the other; return the accuracy on each at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)).to(DEVICE)  # stays in float32
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=0.1)  # the first line
    scaler = torch.amp.GradScaler(DEVICE)
    for task in tasks:
        for _ in range(2):
            for batch in torch.randperm(TRAIN).split(BATCH):
                optimizer.zero_grad()
                with torch.autocast(DEVICE, dtype=torch.float16):
                    loss = F.cross_entropy(
                        model(images(task.train_inputs[batch])), task.train_targets[batch].to(DEVICE)
                    )
                scaler.scale(loss).backward()
                scaler.step(optimizer)  # a step that overflows is skipped, and counts as none
                scaler.update()
        synapses.consolidate()  # the second line
    return [accuracy(model, task) for task in tasks]


if __name__ == "__main__":
    tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
    for c in (1.0, 0.0):
        first, second = learn(tasks, c)
        how = "with" if c else "without"
        print(f"{how} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
