"""Progress on the terminal: bars where it can draw them, plain lines where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from synaptic_intelligence.experiments.plan import EpochDone, Job, JobStarted, Message, Plan, Record, TaskDone

_LONGEST_SILENCE = 30.0  # seconds


@contextmanager
def show_progress(
    plan: Plan, records: dict[Job, Record], console: Console, sizes: Sequence[int] = ()
) -> Iterator[Callable[[Message], None]]:
    """Return a context that gives a listener for a run's messages, which shows how far it is and how long it takes.

    Args:
        plan: what is trained.
        records: what jobs had measured before; empty for a new run.
        console: where to; bars on a terminal, else one line for each task, and one after an epoch where there was none
            for half a minute.
        sizes: training images of each task, by which the time left is estimated; empty: all tasks count alike.
    """
    tally = _Tally(plan, records, sizes or [1] * plan.settings.tasks)
    if not console.is_terminal or console.is_dumb_terminal:
        lines = _Lines(tally)
        yield lines.listen
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in ("where", "how", "left")),
    )
    # What is shown changes with the messages alone: no thread that draws it again in between.
    with Progress(*columns, console=console, expand=True, auto_refresh=False) as progress:
        # In images, as the time left is: an epoch of one task may take ten times as long as that of another.
        whole = progress.add_task("all", total=1.0, where="starting", how="", left="")
        progress.update(whole, completed=tally.share, refresh=True)
        shown: dict[Job, TaskID] = {}

        def listen(message: Message) -> None:
            tally.note(message)
            job = message.job
            if isinstance(message, JobStarted):
                shown[job] = progress.add_task(str(job), total=tally.epochs(job), where="", how="", left="")
            if isinstance(message, EpochDone):
                progress.update(
                    shown[job],
                    where=f"{tally.where(message)} epoch {message.epoch + 1}/{plan.settings.epochs}",
                    how=f"loss {message.loss:.4f} acc {message.accuracy:6.1%}",
                    left=_left(tally.job_left(job)),
                )
            progress.update(shown[job], completed=tally.done_of[job])
            where = f"{tally.done} of {tally.total} epochs"
            progress.update(whole, completed=tally.share, where=where, left=_left(tally.left()))
            if tally.done_of[job] == tally.epochs(job) and not isinstance(message, EpochDone):
                progress.remove_task(shown[job])
            progress.refresh()

        yield listen


@final
@dataclass
class _Tally:
    """How many epochs are done, and how fast they go: time is counted in images, as tasks differ in size."""

    plan: Plan
    records: dict[Job, Record]
    sizes: Sequence[int]
    done_of: dict[Job, int] = field(init=False)
    speed_of: dict[Job, tuple[int, float]] = field(default_factory=dict)
    trained: int = 0
    began: float | None = None

    def __post_init__(self) -> None:
        self.done_of = {job: self._tasks_before(job) * self.plan.settings.epochs for job in self.plan.jobs}

    @property
    def total(self) -> int:
        return sum(self.epochs(job) for job in self.plan.jobs)

    @property
    def done(self) -> int:
        return sum(self.done_of.values())

    def where(self, message: TaskDone | EpochDone) -> str:
        return "all tasks" if message.job.all_at_once else f"task {message.task + 1}/{len(self.plan.task_names)}"

    def epochs(self, job: Job) -> int:
        return len(self.plan.stages(job)) * self.plan.settings.epochs

    def note(self, message: Message) -> None:
        # Loading and start-up tell nothing of the speed: the clock starts with the first job.
        self.began = time.monotonic() if self.began is None else self.began
        first = self.plan.stages(message.job).start
        if isinstance(message, JobStarted):
            self.done_of[message.job] = (message.task - first) * self.plan.settings.epochs + message.epoch
        if isinstance(message, EpochDone):
            images = self._images(message.job, self.done_of[message.job])
            self.done_of[message.job] += 1
            self.trained += images
            before, seconds = self.speed_of.get(message.job, (0, 0.0))
            self.speed_of[message.job] = before + images, seconds + message.seconds

    @property
    def share(self) -> float:
        everything = sum(self._images(job, epoch) for job in self.plan.jobs for epoch in range(self.epochs(job)))
        return 1 - self._images_left() / everything

    def left(self) -> float | None:
        if self.began is None or not self.trained:
            return None
        return self._images_left() * (time.monotonic() - self.began) / self.trained

    def job_left(self, job: Job) -> float:
        images, seconds = self.speed_of[job]
        return self._images_left_of(job) * seconds / images

    def _tasks_before(self, job: Job) -> int:
        """Return how many of a job's tasks were trained before this sitting; of its epochs it tells when it starts."""
        return len(self.records[job].accuracy) - self.plan.stages(job).start if job in self.records else 0

    def _images_left(self) -> int:
        return sum(self._images_left_of(job) for job in self.plan.jobs)

    def _images_left_of(self, job: Job) -> int:
        return sum(self._images(job, epoch) for epoch in range(self.done_of[job], self.epochs(job)))

    def _images(self, job: Job, epoch: int) -> int:
        """Return how many images an epoch of a job has, epochs counted from the job's first."""
        if job.all_at_once:
            return sum(self.sizes)
        return self.sizes[self.plan.stages(job).start + epoch // self.plan.settings.epochs]


@final
@dataclass
class _Lines:
    """Progress where bars cannot be drawn, in a log file for instance."""

    tally: _Tally
    last: float = field(default_factory=time.monotonic)

    def listen(self, message: Message) -> None:
        self.tally.note(message)
        if isinstance(message, TaskDone):
            names, record = self.tally.plan.task_names, message.record
            at_once = message.job.all_at_once
            name = "" if at_once else f" ({names[message.task]})"
            learnt = record.accuracy[-1][: None if at_once else message.task + 1]
            self._print(
                f"{self._where(message)}{name} learnt in {record.task_seconds[-1]:.1f} s, "
                f"training accuracy {record.train_accuracy[-1]:.1%}, "
                f"test accuracy on {'them' if at_once else 'the tasks so far'} {fmean(learnt):.1%}"
            )
        if isinstance(message, EpochDone) and time.monotonic() - self.last >= _LONGEST_SILENCE:
            epochs = self.tally.plan.settings.epochs
            self._print(
                f"{self._where(message)} epoch {message.epoch + 1}/{epochs}, loss {message.loss:.4f}, "
                f"training accuracy {message.accuracy:.1%}"
            )

    def _where(self, message: TaskDone | EpochDone) -> str:
        return f"{message.job}: {self.tally.where(message)}"

    def _print(self, what: str) -> None:
        self.last, left = time.monotonic(), self.tally.left()
        share = f"{self.tally.share:.0%} of the run is done"
        # Not through rich, which would break the lines.
        print(f"{what}; {share}" + (f", about {_left(left)}" if left else ""), flush=True)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
