"""Split CIFAR-10: five tasks of two classes each, one head per task (not in the paper).

synaptic run split-cifar10
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.data import load_cifar10
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.networks import convolutional_network
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, split_by_class

PAPER = Settings(seeds=5, first_seed=0, c=(0.0, 0.1), xi=1e-3, epochs=60, batch_size=256, lr=1e-3, tasks=5)
"""The settings of the paper's benchmark on CIFAR."""

CLASSES = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


def network(generator: torch.Generator) -> nn.Module:
    """Return the convolutional network with 10 outputs, two for each task."""
    return convolutional_network(10, generator)


def task_names(tasks: int) -> tuple[str, ...]:
    """Return the names of the first tasks."""
    return tuple(f"{a}/{b}" for a, b in CLASSES[:tasks])


def stream(data_dir: Path | None = None, tasks: int = 5) -> Stream:
    """Return the first tasks: airplane or automobile, bird or cat, deer or dog, frog or horse, ship or truck.

    Raises:
        DataError: CIFAR-10 is missing or damaged.
    """
    return split_by_class(load_cifar10(data_dir), CLASSES[:tasks])


SPLIT_CIFAR10 = Experiment(
    name="split-cifar10",
    title="Split CIFAR-10",
    what="five tasks of two classes, a convolutional network, one head each",
    source="no figure",
    paper=PAPER,
    quick=replace(PAPER, seeds=1, epochs=1, batch_size=32, tasks=2, limit=256),
    protocol={
        "network": "convolutions 32-32-pool-64-64-pool, 3 x 3, then 512, ReLU, dropout 0.25, 0.25 and 0.5, one head of "
        "two outputs per task (the other logits are masked)",
        "initialisation": "Glorot-uniform weights, zero biases, output layer all zero",
        "optimizer": "Adam, fresh for each task",
    },
    task_names=task_names,
    most_tasks=len(CLASSES),
    chance=0.5,
    multi_head=True,
    fresh_optimizer=True,
    network=network,
    stream=stream,
)
