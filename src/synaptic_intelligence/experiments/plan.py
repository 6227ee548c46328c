"""What is to be trained: the jobs of a run, and what a job tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.result import exact


@final
@dataclass(frozen=True)
class Job:
    """A piece of a run that one worker trains without a break.

    The first task does not depend on c, as nothing is consolidated yet: it is a job of its own (``c`` None), trained
    once for a seed. One job for each c goes on from its end, through the other tasks.

    Example:
        >>> str(Job(seed=0, c=None)), str(Job(seed=0, c=1.0))
        ('seed 0, first task', 'seed 0, c = 1')
    """

    seed: int
    c: float | None

    @property
    def needs(self) -> Job | None:
        """The job that must be done before this one."""
        return None if self.c is None else Job(self.seed, None)

    def __str__(self) -> str:
        return f"seed {self.seed}, first task" if self.c is None else f"seed {self.seed}, c = {exact(self.c)}"


@final
@dataclass(frozen=True)
class Plan:
    """One run of an experiment: what, with which settings, on which device, from and into which folder."""

    experiment: Experiment
    settings: Settings
    device: str
    threads: int
    data_dir: Path | None
    out: Path

    @property
    def result(self) -> Path:
        """The result file."""
        return self.out / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, one for each job; it goes when the run is complete."""
        return self.out / "checkpoints"

    @property
    def jobs(self) -> list[Job]:
        """All jobs; first tasks come first, as others wait for them."""
        seeds, strengths = self.settings.all_seeds, self.settings.c
        return [Job(seed, None) for seed in seeds] + [Job(seed, c) for seed in seeds for c in strengths]

    def tasks(self, job: Job) -> range:
        """The numbers of the tasks that ``job`` trains, counted from 0."""
        return range(1) if job.c is None else range(1, len(self.experiment.task_names))


@final
@dataclass(frozen=True)
class Record:
    """What was measured on a seed's way to here: the fields of the result's ``Run``, rows for the tasks so far."""

    baseline: list[float]
    accuracy: list[list[float]] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    task_seconds: list[float] = field(default_factory=list)


@final
@dataclass(frozen=True)
class JobStarted:
    """A worker has begun with a job, or goes on with it at this task and epoch (both counted from 0)."""

    job: Job
    task: int
    epoch: int


@final
@dataclass(frozen=True)
class EpochDone:
    """An epoch was trained (task and epoch counted from 0); its checkpoint is written. ``seconds`` is the epoch's."""

    job: Job
    task: int
    epoch: int
    loss: float
    accuracy: float
    seconds: float


@final
@dataclass(frozen=True)
class TaskDone:
    """A task was trained and tested (counted from 0); ``record`` ends with it."""

    job: Job
    task: int
    record: Record


Message = JobStarted | EpochDone | TaskDone
