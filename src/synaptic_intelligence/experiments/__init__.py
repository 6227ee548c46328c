"""The paper's experiments, one file each, and what they share: settings, jobs, runner, progress."""

from __future__ import annotations

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.split_mnist import SPLIT_MNIST

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (SPLIT_MNIST,)}
"""Every experiment by its name on the command line."""

__all__ = ["EXPERIMENTS", "Experiment"]
