"""What a user may set in an experiment, and how that differs from the paper's protocol."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import final

from synaptic_intelligence.document import JSON, exact
from synaptic_intelligence.experiments.method import Method


@final
@dataclass(frozen=True)
class Settings:
    """Everything that decides an experiment's numbers, apart from the machine.

    Args:
        seeds: how many runs of each strength, with the seeds ``first_seed``, ``first_seed + 1``, ...
        first_seed: the smallest seed, not negative.
        c: strengths of the synapses; 0 is a network without them.
        xi: damping of the importance, in units of theta^2.
        epochs: passes over the training images of each task.
        batch_size: images in a step.
        lr: learning rate.
        tasks: how many tasks are learnt.
        limit: train and test on the first ``limit`` images of each task only; None: on all of them.
        rivals: what the synapses are compared with, as ``Method.parse`` reads it; may be empty.
        fisher_images: from how many images of each task the rival ``ewc`` estimates the Fisher information.
        keep_step_count: whether Adam, where each task begins with a fresh one, goes on counting its steps, as the
            authors' code does: :func:`~synaptic_intelligence.experiments.optimizers.adam`. From scratch it begins anew
            there too.
        coarse_omega: whether omega is bfloat16.

    Raises:
        ValueError: a value makes no sense; the message begins with its name.

    Example:
        >>> paper = Settings(seeds=2, first_seed=5, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5)
        >>> list(paper.all_seeds)
        [5, 6]
    """

    seeds: int
    first_seed: int
    c: tuple[float, ...]
    xi: float
    epochs: int
    batch_size: int
    lr: float
    tasks: int
    limit: int | None = None
    rivals: tuple[str, ...] = ()
    fisher_images: int = 1024
    keep_step_count: bool = False
    coarse_omega: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "batch_size", "tasks", "limit", "fisher_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        # Each seed gives three generators: 2 * seed, 2 * seed + 1 and 2^31 + seed, of which the CPU's keep 32 bits.
        # These are different ones as long as the first two stay below the third.
        if not 0 <= self.first_seed < 2**30:
            raise ValueError(f"first_seed must be from 0 to 2^30 - 1, not {self.first_seed}")
        if self.first_seed + self.seeds > 2**30:
            raise ValueError(
                f"seeds: the last must be below 2^30, so {self.seeds} from {self.first_seed} on are too many"
            )
        for name in ("xi", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive finite number, not {exact(value)}")
        if not self.c:
            raise ValueError("c needs at least one strength")
        for c in self.c:
            if not (math.isfinite(c) and c >= 0):
                raise ValueError(f"c must be a finite number, 0 or more, not {exact(c)}")
            if self.c.count(c) > 1:
                raise ValueError(f"c has {exact(c)} more than once")
        for rival in self.rivals:
            if sum(Method.parse(other) == Method.parse(rival) for other in self.rivals) > 1:
                raise ValueError(f"rivals has {rival} more than once")

    @property
    def all_seeds(self) -> range:
        """The seeds of the runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def methods(self) -> list[Method]:
        """The ways to learn the tasks: synapses of each strength, then the rivals."""
        return [*(Method("si", c) for c in self.c), *(Method.parse(rival) for rival in self.rivals)]

    def as_json(self) -> dict[str, JSON]:
        """The settings by name, as the result file holds them."""
        return {**asdict(self), "c": list(self.c), "rivals": list(self.rivals)}


_OPTIONS = {"rivals": "rival"}

_IN_WORDS: dict[str, Callable[[Settings, Settings], str]] = {
    "xi": lambda ours, paper: f"xi {exact(ours.xi)} instead of {exact(paper.xi)}",
    "epochs": lambda ours, paper: f"{ours.epochs} epoch{'s'[: ours.epochs != 1]} instead of {paper.epochs}",
    "batch_size": lambda ours, paper: f"batches of {ours.batch_size} instead of {paper.batch_size}",
    "lr": lambda ours, paper: f"learning rate {exact(ours.lr)} instead of {exact(paper.lr)}",
    "tasks": lambda ours, paper: f"{ours.tasks} task{'s'[: ours.tasks != 1]} instead of {paper.tasks}",
    "fisher_images": lambda ours, paper: (
        f"Fisher from {ours.fisher_images} images instead of our {paper.fisher_images}"
    ),
    "keep_step_count": lambda ours, paper: "Adam's count of steps goes on from task to task, as in the authors' code",
    "coarse_omega": lambda ours, paper: "omega in bfloat16",
    "limit": lambda ours, paper: f"only the first {ours.limit} images of each task",
}


def deviations(ours: Settings, paper: Settings) -> list[str]:
    """Say in words where ``ours`` leaves the protocol ``paper``; other seeds, strengths and rivals stay within it.

    Example:
        >>> from dataclasses import replace
        >>> paper = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5)
        >>> deviations(replace(paper, seeds=3, epochs=2), paper)
        ['2 epochs instead of 10']
    """
    changed = [name for name in _IN_WORDS if getattr(ours, name) != getattr(paper, name)]
    if not any(method.name == "ewc" for method in ours.methods):
        changed = [name for name in changed if name != "fisher_images"]
    return [_IN_WORDS[name](ours, paper) for name in changed]


def option(name: str) -> str:
    """Return the command line's option for a setting.

    Example:
        >>> option("batch_size"), option("rivals")
        ('--batch-size', '--rival')
    """
    return f"--{_OPTIONS.get(name, name.replace('_', '-'))}"


def flags(ours: Settings, paper: Settings) -> list[str]:
    """Return the command line flags that turn the settings ``paper``, the defaults, into ``ours``.

    Example:
        >>> from dataclasses import replace
        >>> paper = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5)
        >>> flags(replace(paper, seeds=3, c=(0.5,)), paper)
        ['--seeds', '3', '--c', '0.5']
    """
    words = []
    for field in fields(ours):
        value = getattr(ours, field.name)
        if isinstance(value, bool):
            words += [option(field.name)] if value else []
        elif value != getattr(paper, field.name):
            for item in (value or ("none",)) if isinstance(value, tuple) else (value,):
                words += [option(field.name), str(item)]
    return words
