"""Running an experiment: its jobs in this process or in workers, and the result file as they go."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.experiments import replicates
from synaptic_intelligence.experiments.folder import clean_up
from synaptic_intelligence.experiments.plan import Job, JobStarted, Message, Plan, Record, TaskDone, taken_over
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.experiments.workers import JobError, run_here, run_in_workers
from synaptic_intelligence.result import Result, Run, write_result
from synaptic_intelligence.tasks import Stream

_SHORT = 20_000  # images, of which each worker sees its share


def run(
    plan: Plan,
    result: Result,
    records: dict[Job, Record],
    workers: int,
    listen: Callable[[Message], None],
    loaded: Stream | None = None,
) -> Result:
    """Train what is left of ``plan``, and return the complete result, whose file is renewed after each epoch.

    Where the result is complete already there is nothing to do.

    Args:
        plan: what to train.
        result: the result so far, as ``start_run`` or ``resume_run`` gives it.
        records: what jobs have measured so far; empty for a new run.
        workers: processes side by side; 0 or 1: this one alone, which on a GPU trains small networks all at once.
        listen: is told of each job, epoch and task.
        loaded: the tasks of the plan, where they are loaded already; workers load their own.

    Raises:
        JobError: a job failed, its worker died, or the result is not complete at the end; what was done until then
            can be resumed.
        OSError: the result cannot be written.
    """
    if result.complete:
        return result
    began, before, records = time.monotonic(), result.wall_seconds, dict(records)

    def write() -> Result:
        seconds = before + time.monotonic() - began
        now = replace(result, runs=_runs(plan, records), wall_seconds=seconds)
        write_result(now, plan.result)
        return now

    def note(message: Message) -> None:
        if isinstance(message, TaskDone):
            records[message.job] = message.record
        if not isinstance(message, JobStarted):
            # After an epoch too: its checkpoint is kept, so its time has to be.
            write()
        listen(message)

    if workers <= 1 and not records and replicates.pay(plan):
        # Their numbers are those of separate runs but for rounding, and their times are shares.
        result = replace(result, environment={**result.environment, "at_once": True})
        try:
            replicates.train_replicates(plan, loaded or plan.load(), note)
        except (SynapseError, torch.OutOfMemoryError) as error:
            # As where one diverges, or all need too much memory.
            warn(f"the runs are not trained at once, but go on one by one from their last task: {error}")
    left = unfinished_jobs(plan, records)
    if workers > 1 and left:
        run_in_workers(plan, left, workers, note)
    else:
        run_here(plan, left, note, loaded)
    whole = write()
    if not whole.complete:
        done = f"{len(whole.complete_runs)} of {whole.planned_runs} runs are complete"
        raise JobError(f"all jobs have ended, but only {done}; the checkpoints are kept")
    clean_up(plan)
    return whole


def unfinished_jobs(plan: Plan, records: dict[Job, Record]) -> list[Job]:
    """Return the jobs that still have tasks to train, first tasks first, and those where a run waits for them."""
    left = [job for job in plan.jobs if job not in records or len(records[job].accuracy) < plan.stages(job).stop]
    needed = {job.needs for job in left}
    return [job for job in left if job.method is not None or job in needed]


def default_workers(settings: Settings, device: str) -> int:
    """Return how many processes to run side by side: one for each core and run, as far as both go; one on a GPU.

    A step of a small network is too short to be shared between threads: results/workers.json, by benchmarks/workers.py.
    And a run that sees no more than some thousands of images is over before workers have started.
    """
    runs = settings.seeds * len(settings.methods)
    if settings.limit is not None and runs * settings.tasks * settings.epochs * settings.limit <= _SHORT:
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, runs) if torch.device(device).type == "cpu" else 1


def _runs(plan: Plan, records: dict[Job, Record]) -> list[Run]:
    """Every run that has learnt a task; where its own job has not, that is the seed's first."""
    runs = []
    for job in (Job(seed, method) for seed in plan.settings.all_seeds for method in plan.settings.methods):
        assert job.method is not None
        record = records.get(job)
        first = None if job.needs is None else records.get(job.needs)
        if record is None and first is not None and first.accuracy:
            record = taken_over(first, job.method)
        if record is not None and record.accuracy:
            # From scratch it grows with each task; the result has it when all are there.
            final = record.final_train_accuracy if len(record.accuracy) == plan.stages(job).stop else []
            measured = {**asdict(record), "final_train_accuracy": final}
            runs.append(Run(job.seed, job.method.name, job.method.c, **measured))
    return runs
