"""What an experiment is: a network, a stream of tasks, and the paper's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream


@final
@dataclass(frozen=True)
class Experiment:
    """One figure or table of the paper, as the runner needs it.

    Args:
        name: name on the command line, such as ``split-mnist``.
        title: name for people.
        what: what is learnt, in half a sentence.
        source: where the paper shows it.
        paper: the paper's settings, the defaults.
        quick: settings that take ten seconds on two cores, to see that all works; never the protocol.
        protocol: what is not a setting (network, optimizer, initialisation), in words, for the result file.
        task_names: gives the names of so many tasks, in the order of training.
        most_tasks: how many tasks there are; None: any number.
        chance: accuracy of guessing on one task, a fraction.
        multi_head: whether the logits of other tasks' classes are masked.
        fresh_optimizer: whether each task begins with a fresh optimizer, or one goes through all of them.
        network: makes the untrained network; takes every random number from the generator that it is given.
        stream: loads so many tasks, from a folder or (None) from where they are by default.
        rivals: the names of the rivals that make sense here.
        dropout_network: the network of the rival ``sgd-dropout``, made as ``network`` is.
        correlates_paths: whether the path integrals of different tasks are compared.

    The functions are those of a module, as worker processes import them by name.

    Example:
        >>> from synaptic_intelligence.experiments import EXPERIMENTS
        >>> EXPERIMENTS["split-mnist"].task_names(5)
        ('0/1', '2/3', '4/5', '6/7', '8/9')
    """

    name: str
    title: str
    what: str
    source: str
    paper: Settings
    quick: Settings
    protocol: dict[str, str]
    task_names: Callable[[int], tuple[str, ...]]
    most_tasks: int | None
    chance: float
    multi_head: bool
    fresh_optimizer: bool
    network: Callable[[torch.Generator], nn.Module]
    stream: Callable[[Path | None, int], Stream]
    rivals: tuple[str, ...] = ()
    dropout_network: Callable[[torch.Generator], nn.Module] | None = None
    correlates_paths: bool = False
