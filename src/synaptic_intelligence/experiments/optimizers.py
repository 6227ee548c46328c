"""The optimizer of the experiments: torch's Adam, and how the authors' code begins a task with it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream


def is_fused(device: str | torch.device) -> bool:
    """Whether torch has its fused optimizers on a device."""
    return torch.device(device).type in ("cpu", "cuda", "mps", "xpu")


def steps_before(settings: Settings, stream: Stream, task: int) -> int:
    """Return how many steps are made before a task, counted from 0."""
    return sum(settings.epochs * math.ceil(len(data.train_targets) / settings.batch_size) for data in stream[:task])


def step_length(step: int) -> float:
    """Return how long a task's step is where the count goes on, over its length with a fresh Adam, gradients alike.

    Args:
        step: of the task, counted from 1.

    Source: Kingma and Ba 2015, algorithm 1: its two corrections of the moments, with its default rates.

    Example:
        >>> [round(step_length(step), 2) for step in (1, 12, 100, 1000)]
        [3.16, 6.57, 3.24, 1.26]
    """
    return float((1 - 0.9**step) / math.sqrt(1 - 0.999**step))


def adam(parameters: Iterable[nn.Parameter], *, lr: float, steps_before: int = 0) -> torch.optim.Adam:
    """Return Adam with moments of zero, fused where torch can.

    The authors' code begins a task with moments of zero too, but leaves the count of the steps, by which Adam corrects
    the moments' bias towards zero, where it was. Nothing is corrected then, and as the second moment grows more slowly
    than the first, the first steps of a task are longer: by :func:`step_length`.

    Args:
        parameters: what is trained.
        lr: the learning rate, and the length of a step in theta once the moments have settled.
        steps_before: how many steps the count says have been made.

    Source: Kingma and Ba 2015, algorithm 1; ``KOOptimizer.reset_optimizer`` of the authors' code
    (github.com/ganguli-lab/pathint), which re-initialises what ``Adam.get_updates`` has made, hence not ``iterations``.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> for steps_before in (0, 10_000):
        ...     optimizer, before = adam([weight], lr=1e-3, steps_before=steps_before), weight.item()
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        ...     print(f"{(before - weight.item()) / 1e-3:.2f}")
        1.00
        3.16
    """
    optimized = list(parameters)
    optimizer = torch.optim.Adam(optimized, lr=lr, fused=all(is_fused(p.device) for p in optimized))
    if steps_before:
        for parameter in optimized:
            optimizer.state[parameter] = {
                # Where the fused form wants it: beside the parameter.
                "step": torch.tensor(float(steps_before), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer
