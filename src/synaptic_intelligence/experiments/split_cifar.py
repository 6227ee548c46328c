"""Split CIFAR: all of CIFAR-10, then five tasks of ten classes of CIFAR-100, one head per task (figure 6 of the paper).

    synaptic run split-cifar

Expect a mean over the six tasks of the final validation accuracy of 0.735 with c = 0.01, 0.720 with 0.1, 0.625 without
synapses, and 0.711 from scratch. On two CPU cores a run of one seed and one method takes about two hours of one core.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.data import load_cifar10, load_cifar100
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.networks import convolutional_network
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, split_by_class

PAPER = Settings(
    seeds=5,
    first_seed=0,
    c=(0.0, 0.01, 0.1),
    xi=1e-3,
    epochs=60,
    batch_size=256,
    lr=1e-3,
    tasks=6,
    rivals=("scratch",),
)
"""The settings of the paper and of its authors' code."""

_CIFAR10_CLASSES = 10
_NAMES = ("CIFAR-10", *(f"CIFAR-100 {first}-{first + 9}" for first in range(0, 50, 10)))


def network(generator: torch.Generator) -> nn.Module:
    """Return the convolutional network with 60 outputs, ten for each task."""
    return convolutional_network(60, generator)


def task_names(tasks: int) -> tuple[str, ...]:
    """Return the names of the first tasks."""
    return _NAMES[:tasks]


def stream(data_dir: Path | None = None, tasks: int = 6) -> Stream:
    """Return CIFAR-10 (labels 0 to 9), then ten classes of CIFAR-100 at a time (labels 10 to 59).

    Raises:
        DataError: the data sets are missing or damaged.
    """
    cifar10 = replace(load_cifar10(data_dir), name=_NAMES[0])
    if tasks == 1:
        return (cifar10,)
    cifar100 = load_cifar100(data_dir)
    shifted = replace(
        cifar100,
        train_targets=cifar100.train_targets + _CIFAR10_CLASSES,
        test_targets=cifar100.test_targets + _CIFAR10_CLASSES,
        classes=tuple(label + _CIFAR10_CLASSES for label in cifar100.classes),
    )
    groups = [range(first, first + 10) for first in range(10, 10 * tasks, 10)]
    split = split_by_class(shifted, groups)
    return (cifar10, *(replace(task, name=name) for task, name in zip(split, _NAMES[1:tasks], strict=True)))


SPLIT_CIFAR = Experiment(
    name="split-cifar",
    title="Split CIFAR-10/CIFAR-100",
    what="CIFAR-10, then five tasks of ten classes of CIFAR-100, one head each",
    source="figure 6",
    paper=PAPER,
    quick=replace(PAPER, seeds=1, c=(0.0, 0.1), epochs=1, batch_size=32, tasks=2, limit=256),
    protocol={
        "network": "convolutions 32-32-pool-64-64-pool, 3 x 3, then 512, ReLU, dropout 0.25, 0.25 and 0.5, one head of "
        "ten outputs per task (the other logits are masked)",
        "initialisation": "Glorot-uniform weights, zero biases, output layer all zero",
        "optimizer": "Adam, fresh for each task",
        "scratch": "fresh weights for each task",
    },
    task_names=task_names,
    most_tasks=len(_NAMES),
    chance=0.1,
    multi_head=True,
    fresh_optimizer=True,
    network=network,
    stream=stream,
    rivals=("scratch",),
)
