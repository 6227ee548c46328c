"""Training one job: a seed's first task, or the tasks after it with one strength of the synapses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import nn

from synaptic_intelligence.consolidator import Consolidator, SynapticIntelligence
from synaptic_intelligence.experiments.checkpoint import (
    Checkpoint,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)
from synaptic_intelligence.experiments.plan import (
    EpochDone,
    Job,
    JobStarted,
    Message,
    Plan,
    Record,
    TaskDone,
)
from synaptic_intelligence.tasks import Stream
from synaptic_intelligence.train import evaluate, train_epoch

# In the first task nothing is held yet, so that its strength does not matter.
_FIRST_C = 0.0


def train_job(plan: Plan, job: Job, stream: Stream, listen: Callable[[Message], None]) -> None:
    """Train ``job`` to its end, from its checkpoint where there is one, and tell ``listen`` of each epoch and task.

    A checkpoint is written after every epoch. The weights and the order of the images come from two generators that
    the seed alone determines; every strength of a seed sees the same images in the same order.

    Raises:
        CheckpointError: a checkpoint is damaged.
    """
    path = checkpoint_path(plan.checkpoints, job)
    start = read_checkpoint(path)
    if start is None and job.needs is not None:
        start = read_checkpoint(checkpoint_path(plan.checkpoints, job.needs))
        if start is None:
            raise FileNotFoundError(f"{job} needs the checkpoint of {job.needs}, which is not there")
    state = _begin(plan, job, stream, start)
    task, epoch, seconds = (0, 0, 0.0) if start is None else (start.task, start.epoch, start.seconds)
    listen(JobStarted(job, task, epoch))
    if task not in plan.tasks(job):
        # The one who wrote this checkpoint was stopped before it could tell.
        listen(TaskDone(job, task - 1, state.record))
    while task in plan.tasks(job):
        if epoch == 0:
            state.optimizer = _fresh_optimizer(state.model, plan)
            state.synapses.attach(state.optimizer)
        done = train_epoch(
            state.model,
            state.optimizer,
            stream[task],
            batch_size=plan.settings.batch_size,
            generator=state.order,
            multi_head=plan.experiment.multi_head,
        )
        seconds += done.seconds
        trained = EpochDone(job, task, epoch, done.loss, done.accuracy, done.seconds)
        last = epoch + 1 == plan.settings.epochs
        if last:
            state.synapses.consolidate()
            state.record = replace(
                state.record,
                accuracy=[*state.record.accuracy, _test(state.model, stream, plan)],
                train_accuracy=[*state.record.train_accuracy, done.accuracy],
                task_seconds=[*state.record.task_seconds, seconds],
            )
        task, epoch, seconds = (task + 1, 0, 0.0) if last else (task, epoch + 1, seconds)
        # Before anything is told: what the parent knows of, a resumed run finds.
        write_checkpoint(state.checkpoint(task, epoch, seconds), path)
        listen(trained)
        if last:
            listen(TaskDone(job, trained.task, state.record))


@final
@dataclass
class _State:
    """What changes while a job trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    synapses: Consolidator
    order: torch.Generator
    record: Record

    def checkpoint(self, task: int, epoch: int, seconds: float) -> Checkpoint:
        return Checkpoint(
            task=task,
            epoch=epoch,
            seconds=seconds,
            c=self.synapses.c,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict() if epoch > 0 else {},
            synapses=self.synapses.state_dict(),
            order=self.order.get_state(),
            record=self.record,
        )


def _begin(plan: Plan, job: Job, stream: Stream, start: Checkpoint | None) -> _State:
    model = plan.experiment.network(torch.Generator().manual_seed(2 * job.seed)).to(plan.device)
    order = torch.Generator().manual_seed(2 * job.seed + 1)
    if start is not None:
        model.load_state_dict(start.weights)
        order.set_state(start.order)
    optimizer = _fresh_optimizer(model, plan)
    if start is not None and start.optimizer:
        optimizer.load_state_dict(start.optimizer)
    c = _FIRST_C if start is None else start.c
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=plan.settings.xi)
    if start is not None:
        synapses.load_state_dict(start.synapses)
    # Here the strengths part ways: a job that begins has the state of the seed's first task.
    synapses.c = _FIRST_C if job.c is None else job.c
    record = Record(baseline=_test(model, stream, plan)) if start is None else start.record
    return _State(model, optimizer, synapses, order, record)


def _fresh_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    fused = torch.device(plan.device).type in ("cpu", "cuda", "mps", "xpu")
    return torch.optim.Adam(model.parameters(), lr=plan.settings.lr, fused=fused)


def _test(model: nn.Module, stream: Stream, plan: Plan) -> list[float]:
    return [evaluate(model, task, multi_head=plan.experiment.multi_head) for task in stream]
