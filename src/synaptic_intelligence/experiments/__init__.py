"""The paper's experiments, one file each, and what they share: settings, jobs, runner, progress."""

from __future__ import annotations

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.importance_measures import IMPORTANCE_MEASURES
from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST
from synaptic_intelligence.experiments.quadratic import QUADRATIC
from synaptic_intelligence.experiments.split_cifar import SPLIT_CIFAR
from synaptic_intelligence.experiments.split_cifar10 import SPLIT_CIFAR10
from synaptic_intelligence.experiments.split_cifar10_halves import SPLIT_CIFAR10_HALVES
from synaptic_intelligence.experiments.split_mnist import SPLIT_MNIST
from synaptic_intelligence.experiments.study import Study
from synaptic_intelligence.experiments.task_correlations import TASK_CORRELATIONS
from synaptic_intelligence.experiments.toy import TOY

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (SPLIT_MNIST, PERMUTED_MNIST, TASK_CORRELATIONS, SPLIT_CIFAR, SPLIT_CIFAR10_HALVES, SPLIT_CIFAR10)
}
"""Every experiment that learns a stream of tasks, by its name on the command line."""

STUDIES: dict[str, Study] = {study.name: study for study in (TOY, QUADRATIC, IMPORTANCE_MEASURES)}
"""Every experiment that is computed in one go, by its name on the command line."""

__all__ = ["EXPERIMENTS", "STUDIES", "Experiment", "Study"]
