"""Permuted MNIST: ten tasks, each with the pixels in another order, one head for all (figure 4 of the paper).

    synaptic run permuted-mnist

Expect an average accuracy over the ten tasks of 0.969 with c = 0.1, 0.939 with 0.02, 0.920 with 0.01, and 0.574 without
synapses. On two CPU cores a run of one seed and one strength takes more than an hour of one core.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.job import SGD_LR
from synaptic_intelligence.experiments.networks import multilayer_perceptron
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, permute_pixels

SIZES = (784, 2000, 2000, 10)

PERMUTATIONS_SEED = 2017
"""The tasks are the same for every seed of the network."""

PAPER = Settings(
    seeds=5,
    first_seed=0,
    c=(0.0, 0.01, 0.02, 0.1),
    xi=0.1,
    epochs=20,
    batch_size=256,
    lr=1e-3,
    tasks=10,
    rivals=("ewc:1000000", "sgd-dropout", "joint"),
)
"""The settings of the paper and of its authors' code.

The strength of EWC is from a search on three tasks of five epochs, in powers of ten
(results/permuted-mnist-search-*.json): the smallest whose average accuracy lies within 0.001 of the best.
"""


def network(generator: torch.Generator) -> nn.Module:
    """Return the network 784-2000-2000-10 with Glorot-uniform weights from ``generator`` and zero biases."""
    return multilayer_perceptron(SIZES, generator, zero_output=False)


def dropout_network(generator: torch.Generator) -> nn.Module:
    """Return the same network with dropout of half of the hidden units."""
    return multilayer_perceptron(SIZES, generator, zero_output=False, dropout=0.5)


def task_names(tasks: int) -> tuple[str, ...]:
    """Return the names of so many tasks."""
    return tuple(f"permutation {number}" for number in range(1, tasks + 1))


def stream(data_dir: Path | None = None, tasks: int = 10) -> Stream:
    """Return MNIST as it is, then with its pixels in other orders, always the same.

    Raises:
        DataError: the files of MNIST are missing or damaged.
    """
    return permute_pixels(load_mnist(data_dir), tasks, PERMUTATIONS_SEED)


PERMUTED_MNIST = Experiment(
    name="permuted-mnist",
    title="Permuted MNIST",
    what="ten tasks, the pixels in another order in each, one head",
    source="figure 4",
    paper=PAPER,
    quick=replace(PAPER, seeds=1, c=(0.0, 0.1), epochs=1, batch_size=32, tasks=2, limit=128, fisher_images=2),
    protocol={
        "network": "784-2000-2000-10, ReLU, one head",
        "initialisation": "Glorot-uniform weights, zero biases",
        "optimizer": "Adam, one for all tasks",
        "ewc": "Fisher information of the model's own labels, summed over tasks",
        "sgd-dropout": f"SGD with learning rate {SGD_LR}, dropout 0.5 of the hidden units",
        "joint": "all tasks' images shuffled together, as many epochs",
    },
    task_names=task_names,
    most_tasks=None,
    chance=0.1,
    multi_head=False,
    fresh_optimizer=False,
    network=network,
    stream=stream,
    rivals=("ewc", "sgd-dropout", "joint"),
    dropout_network=dropout_network,
    correlates_paths=True,
)
