"""Split MNIST: five tasks of two digits each, one head per task (figure 3 of the paper).

    synaptic run split-mnist

Expect an average accuracy over the five tasks of 0.97 to 0.99 with c = 1, and of 0.70 to 0.86 without synapses.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, load_mnist, split_by_class

PAPER = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3)
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
    sizes = (784, 256, 256, 10)
    # skip_init: Linear would fill its weights from the global generator, only for them to be replaced here.
    first, second, output = (nn.utils.skip_init(nn.Linear, before, after) for before, after in pairwise(sizes))
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), output)


def stream(data_dir: Path | None = None) -> Stream:
    """Return the five tasks 0/1, 2/3, 4/5, 6/7 and 8/9 (half a second).

    Raises:
        DataError: the files of MNIST are missing or damaged.
    """
    return split_by_class(load_mnist(data_dir), DIGITS)


SPLIT_MNIST = Experiment(
    name="split-mnist",
    title="Split MNIST",
    what="five tasks of two digits, one head each",
    source="figure 3",
    paper=PAPER,
    protocol={
        "network": "784-256-256-10, ReLU, one head of two outputs per task (the other logits are masked)",
        "initialisation": "Glorot-uniform weights, zero biases, output layer all zero",
        "optimizer": "Adam, fresh for each task",
    },
    task_names=tuple(f"{a}/{b}" for a, b in DIGITS),
    chance=0.5,
    multi_head=True,
    network=network,
    stream=stream,
)
