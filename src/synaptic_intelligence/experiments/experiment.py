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
        protocol: what is not a setting (network, optimizer, initialisation), in words, for the result file.
        task_names: names of the tasks, in the order of training.
        chance: accuracy of guessing on one task, a fraction.
        multi_head: whether the logits of other tasks' classes are masked.
        network: makes the untrained network; takes every random number from the generator that it is given.
        stream: loads the tasks, from a folder or (None) from the package.

    ``network`` and ``stream`` are functions of a module, as worker processes import them by name.

    Example:
        >>> from synaptic_intelligence.experiments import EXPERIMENTS
        >>> EXPERIMENTS["split-mnist"].task_names
        ('0/1', '2/3', '4/5', '6/7', '8/9')
    """

    name: str
    title: str
    what: str
    source: str
    paper: Settings
    protocol: dict[str, str]
    task_names: tuple[str, ...]
    chance: float
    multi_head: bool
    network: Callable[[torch.Generator], nn.Module]
    stream: Callable[[Path | None], Stream]
