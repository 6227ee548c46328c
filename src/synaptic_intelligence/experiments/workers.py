"""Jobs side by side: worker processes that train, and a parent that hands out jobs and listens."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import final

import torch

from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.experiments.job import train_job
from synaptic_intelligence.experiments.plan import Job, Message, Plan
from synaptic_intelligence.tasks import Stream


@final
class JobError(RuntimeError):
    """A job failed, or its worker process died.

    Args:
        message: which job, and why.
        details: the traceback, if there is one.
        diverged: the numbers of the training ran away, as they would again.
    """

    def __init__(self, message: str, details: str = "", *, diverged: bool = False) -> None:
        super().__init__(message)
        self.details = details
        self.diverged = diverged


@final
@dataclass(frozen=True)
class _JobDone:
    job: Job


@final
@dataclass(frozen=True)
class _JobFailed:
    job: Job
    cause: str
    details: str
    diverged: bool

    @classmethod
    def by(cls, job: Job, error: Exception) -> _JobFailed:
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        # A loss, a parameter or an omega that is not finite; nothing else in a job raises this.
        return cls(job, cause, traceback.format_exc(), diverged=isinstance(error, SynapseError))

    def as_error(self) -> JobError:
        return JobError(f"{self.job}: {self.cause}", self.details, diverged=self.diverged)


def run_here(plan: Plan, jobs: list[Job], listen: Callable[[Message], None], loaded: Stream | None = None) -> None:
    """Train ``jobs`` one after the other in this process, on the tasks of ``plan`` if they are ``loaded`` already.

    Raises:
        JobError: a job failed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        stream = None
        for job in jobs:
            try:
                stream = stream or _on_device(plan, loaded)
                train_job(plan, job, stream, listen)
            except Exception as error:
                raise _JobFailed.by(job, error).as_error() from error
    finally:
        torch.set_num_threads(threads)


def run_in_workers(plan: Plan, jobs: list[Job], workers: int, listen: Callable[[Message], None]) -> None:
    """Train ``jobs`` in ``workers`` processes, each when the job that it needs is done; none outlives this call.

    Each worker has a pipe of its own: a worker that is killed in the middle of a message cannot block the others.

    Raises:
        JobError: a job failed, or a worker died.
    """
    pool: dict[Connection, BaseProcess] = {}
    waiting, doing = list(jobs), dict[Connection, Job]()
    try:
        _start(pool, plan, min(workers, len(jobs)))
        while waiting or doing:
            for connection in pool:
                job = None if connection in doing else _next(waiting, [*waiting, *doing.values()])
                if job is not None:
                    waiting.remove(job)
                    doing[connection] = job
                    with _death_noticed(connection, pool, job):
                        connection.send(job)
            for ready in wait(list(pool)):
                assert isinstance(ready, Connection)
                with _death_noticed(ready, pool, doing.get(ready)):
                    message = ready.recv()
                if isinstance(message, _JobFailed):
                    raise message.as_error()
                if isinstance(message, _JobDone):
                    del doing[ready]
                else:
                    listen(message)
    finally:
        _stop(pool)


def _next(waiting: list[Job], unfinished: list[Job]) -> Job | None:
    return next((job for job in waiting if job.needs not in unfinished), None)


def _start(pool: dict[Connection, BaseProcess], plan: Plan, workers: int) -> None:
    spawn = get_context("spawn")
    with _interrupts_ignored():
        for number in range(workers):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, plan), name=f"worker {number + 1}", daemon=True)
            process.start()
            # Only the worker holds its end now, so that its death shows as the end of the pipe.
            theirs.close()
            pool[ours] = process


def _stop(pool: dict[Connection, BaseProcess]) -> None:
    # Nothing is lost: workers write their files in one step each.
    for process in pool.values():
        process.terminate()
    for connection, process in pool.items():
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        connection.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    # Processes that are started meanwhile ignore Ctrl-C from their first moment: the parent alone answers to it.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _death_noticed(connection: Connection, pool: dict[Connection, BaseProcess], job: Job | None) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        process = pool[connection]
        process.join(5)
        code = process.exitcode or 0
        how = f"with exit code {code}"
        if code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        if code == -9:
            how += "; the system does this where memory runs out: --workers 1 needs less"
        raise JobError(f"{job or 'no job'}: {process.name} died {how}") from error


def _work(parent: Connection, plan: Plan) -> None:
    """What a worker process does: train the jobs that it is sent, and tell the parent of them."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(plan.threads)
    stream = None
    with suppress(EOFError, ConnectionError):  # the parent is gone: nothing is left to say, and nobody to hear it
        while True:
            job = parent.recv()
            try:
                stream = stream or _on_device(plan)
                train_job(plan, job, stream, parent.send)
            except Exception as error:
                parent.send(_JobFailed.by(job, error))
            else:
                parent.send(_JobDone(job))


def _follow_parent() -> None:
    """End this process with its parent, also where that was killed, so that a resumed run finds no rival at work."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _on_device(plan: Plan, loaded: Stream | None = None) -> Stream:
    return tuple(task.to(plan.device) for task in loaded or plan.load())
