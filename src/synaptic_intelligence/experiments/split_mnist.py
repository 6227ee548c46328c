"""Split MNIST: five tasks of two digits each, one head per task (figure 3 of the paper).

    synaptic run split-mnist

Expect an average accuracy over the five tasks of 0.97 to 0.99 with c = 1, and of 0.70 to 0.86 without synapses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.networks import multilayer_perceptron
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, split_by_class

PAPER = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5)
"""The settings of the paper and of its authors' code."""

DIGITS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


def network(generator: torch.Generator) -> nn.Module:
    """Return the network 784-256-256-10 with Glorot-uniform weights from ``generator``, zero biases, and zero output.

    With an output layer that starts at zero, as in the authors' code, the heads of later tasks have not moved when the
    first task is learnt. PyTorch's own initialisation is another experiment: without synapses it forgets far less.

    Example:
        >>> model = network(torch.Generator().manual_seed(0))
        >>> model(torch.rand(2, 784)).abs().max().item()
        0.0
    """
    return multilayer_perceptron((784, 256, 256, 10), generator, zero_output=True)


def task_names(tasks: int) -> tuple[str, ...]:
    """Return the names of the first tasks."""
    return tuple(f"{a}/{b}" for a, b in DIGITS[:tasks])


def stream(data_dir: Path | None = None, tasks: int = 5) -> Stream:
    """Return the first of the five tasks 0/1, 2/3, 4/5, 6/7 and 8/9 (half a second).

    Raises:
        DataError: the files of MNIST are missing or damaged.
    """
    return split_by_class(load_mnist(data_dir), DIGITS[:tasks])


SPLIT_MNIST = Experiment(
    name="split-mnist",
    title="Split MNIST",
    what="five tasks of two digits, one head each",
    source="figure 3",
    paper=PAPER,
    quick=replace(PAPER, seeds=1, epochs=1, limit=2000),
    protocol={
        "network": "784-256-256-10, ReLU, one head of two outputs per task (the other logits are masked)",
        "initialisation": "Glorot-uniform weights, zero biases, output layer all zero",
        "optimizer": "Adam, fresh for each task",
    },
    task_names=task_names,
    most_tasks=len(DIGITS),
    chance=0.5,
    multi_head=True,
    fresh_optimizer=True,
    network=network,
    stream=stream,
)
