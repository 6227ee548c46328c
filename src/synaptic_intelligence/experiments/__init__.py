"""The paper's experiments, one file each, and what they share: settings, jobs, runner, progress."""

from __future__ import annotations

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST
from synaptic_intelligence.experiments.split_cifar import SPLIT_CIFAR
from synaptic_intelligence.experiments.split_cifar10 import SPLIT_CIFAR10
from synaptic_intelligence.experiments.split_mnist import SPLIT_MNIST

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for experiment in (SPLIT_MNIST, PERMUTED_MNIST, SPLIT_CIFAR, SPLIT_CIFAR10)
}
"""Every experiment by its name on the command line."""

__all__ = ["EXPERIMENTS", "Experiment"]
