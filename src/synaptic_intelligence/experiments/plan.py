"""What is to be trained: the jobs of a run, and what a job tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.method import Method
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.result import APART, AT_ONCE
from synaptic_intelligence.tasks import Stream


@final
@dataclass(frozen=True)
class Job:
    """A piece of a run that one worker trains without a break.

    The first task does not depend on the strength, as nothing is consolidated yet: it is a job of its own (``method``
    None), trained once for a seed. One job for each method goes on from its end, through the other tasks; a method
    that does not share the first task trains all of them.

    Example:
        >>> str(Job(seed=0, method=None)), str(Job(seed=0, method=Method("si", 1.0)))
        ('seed 0, first task', 'seed 0, c = 1')
    """

    seed: int
    method: Method | None

    @property
    def needs(self) -> Job | None:
        """The job that must be done before this one."""
        return Job(self.seed, None) if self.method is not None and self.method.shares_first_task else None

    @property
    def all_at_once(self) -> bool:
        """Whether all tasks are one stage, their images shuffled together."""
        return self.method is not None and self.method.name == AT_ONCE

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.method or 'first task'}"


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
        seeds, methods = self.settings.all_seeds, self.settings.methods
        return [Job(seed, None) for seed in seeds] + [Job(seed, method) for seed in seeds for method in methods]

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in the order of training."""
        return self.experiment.task_names(self.settings.tasks)

    def load(self) -> Stream:
        """Return the tasks, on the CPU, with as many images as the settings allow.

        Raises:
            DataError: the data is missing or damaged.
            ValueError: the settings ask for more images than a task has.
        """
        stream = self.experiment.stream(self.data_dir, self.settings.tasks)
        first, most = slice(self.settings.limit), max(len(task.train_targets) for task in stream)
        if self.settings.limit is not None and self.settings.limit > most:
            raise ValueError(f"limit must be at most {most}, as no task has more images, not {self.settings.limit}")
        stream = tuple(
            replace(
                task,
                train_inputs=task.train_inputs[first],
                train_targets=task.train_targets[first],
                test_inputs=task.test_inputs[first],
                test_targets=task.test_targets[first],
            )
            for task in stream
        )
        asked, least = self.settings.fisher_images, min(len(task.train_targets) for task in stream)
        if any(method.name == "ewc" for method in self.settings.methods) and asked > least:
            raise ValueError(f"fisher_images must be at most {least}, as a task has no more images, not {asked}")
        return stream

    def stages(self, job: Job) -> range:
        """The numbers of the tasks that ``job`` trains, counted from 0; all tasks at once are one stage."""
        if job.method is None or job.all_at_once:
            return range(1)
        return range(1 if job.method.shares_first_task else 0, self.settings.tasks)


@final
@dataclass(frozen=True)
class Record:
    """What was measured on a seed's way to here: the fields of the result's ``Run``, rows for the tasks so far."""

    baseline: list[float]
    accuracy: list[list[float]] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    final_train_accuracy: list[float] = field(default_factory=list)
    task_seconds: list[float] = field(default_factory=list)
    path_correlation: dict[str, list[list[float]]] = field(default_factory=dict)


def taken_over(record: Record, method: Method) -> Record:
    """Return what a method takes over from the record of the shared first task.

    From scratch the networks of later tasks are untrained still; and paths are compared for synapses alone.
    """
    if method.name == "si":
        return record
    if method.name == APART:
        record = replace(record, accuracy=[[record.accuracy[0][0], *record.baseline[1:]]])
    return replace(record, path_correlation={})


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
