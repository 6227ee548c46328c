"""Training one job: a seed's first task, or the tasks that one method learns after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from synaptic_intelligence.consolidator import Consolidator, SynapticIntelligence
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.experiments.checkpoint import (
    Checkpoint,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)
from synaptic_intelligence.experiments.method import Method
from synaptic_intelligence.experiments.optimizers import adam, is_fused, steps_before
from synaptic_intelligence.experiments.paths import compare_paths
from synaptic_intelligence.experiments.plan import (
    EpochDone,
    Job,
    JobStarted,
    Message,
    Plan,
    Record,
    TaskDone,
    taken_over,
)
from synaptic_intelligence.importance import Fisher
from synaptic_intelligence.result import APART
from synaptic_intelligence.tasks import Stream, Task
from synaptic_intelligence.train import as_input, evaluate, train_epoch

SGD_LR = 0.1
"""The learning rate of the rival ``sgd-dropout``."""

NOISE_SEED = 2**31
"""What is added to a run's seed for dropout; torch's generator on the CPU keeps the lowest 32 bits of a seed alone."""

# In the first task nothing is held yet, so that its strength does not matter.
_FIRST = Method("si", 0.0)


def train_job(plan: Plan, job: Job, stream: Stream, listen: Callable[[Message], None]) -> None:
    """Train ``job`` to its end, from its checkpoint where there is one, and tell ``listen`` of each epoch and task.

    A checkpoint is written after every epoch. The weights, the order of the images and dropout come from three
    generators that the seed alone determines; every method of a seed sees the same images in the same order.

    Raises:
        CheckpointError: a checkpoint is damaged.
        SynapseError: the training has diverged: its loss is not finite.
    """
    path = checkpoint_path(plan.checkpoints, job)
    start = read_checkpoint(path)
    if start is None and job.needs is not None:
        start = read_checkpoint(checkpoint_path(plan.checkpoints, job.needs))
        if start is None:
            raise FileNotFoundError(f"{job} needs the checkpoint of {job.needs}, which is not there")
    with _own_noise(plan.device):
        trainer = _Trainer.begin(plan, job, stream, start)
        task, epoch, seconds = (0, 0, 0.0) if start is None else (start.task, start.epoch, start.seconds)
        listen(JobStarted(job, task, epoch))
        if task not in plan.stages(job):
            # The one who wrote this checkpoint was stopped before it could tell.
            listen(TaskDone(job, task - 1, trainer.record))
        while task in plan.stages(job):
            if epoch == 0 and task > 0:
                trainer.begin_task(task)
            done = train_epoch(
                trainer.model,
                trainer.optimizer,
                trainer.data(task),
                batch_size=plan.settings.batch_size,
                generator=trainer.order,
                multi_head=plan.experiment.multi_head,
            )
            if not math.isfinite(done.loss):
                raise SynapseError(f"the loss of task {task + 1} is not finite in epoch {epoch + 1}")
            seconds += done.seconds
            trained = EpochDone(job, task, epoch, done.loss, done.accuracy, done.seconds)
            last = epoch + 1 == plan.settings.epochs
            if last:
                trainer.end_task(task, done.accuracy, seconds)
            task, epoch, seconds = (task + 1, 0, 0.0) if last else (task, epoch + 1, seconds)
            # Before anything is told: what the parent knows of, a resumed run finds.
            write_checkpoint(trainer.checkpoint(task, epoch, seconds), path)
            listen(trained)
            if last:
                listen(TaskDone(job, trained.task, trainer.record))


@final
@dataclass
class _Trainer:
    """What changes while a job trains."""

    plan: Plan
    job: Job
    stream: Stream
    model: nn.Module
    optimizer: torch.optim.Optimizer
    synapses: Consolidator | None
    order: torch.Generator
    record: Record

    @classmethod
    def begin(cls, plan: Plan, job: Job, stream: Stream, start: Checkpoint | None) -> _Trainer:
        """Return a trainer that goes on from the checkpoint ``start``, the job's own or that of the first task."""
        method = job.method or _FIRST
        model = _network(plan, method, job.seed, 0)
        order = torch.Generator().manual_seed(2 * job.seed + 1)
        torch.manual_seed(NOISE_SEED + job.seed)
        if start is not None:
            model.load_state_dict(start.weights)
            order.set_state(start.order)
            _set_noise(start.noise, plan.device)
        optimizer = _optimizer(plan, method, model)
        if start is not None and start.optimizer:
            optimizer.load_state_dict(start.optimizer)
        synapses = _synapses(plan, method, model, optimizer)
        record = Record(baseline=_test(plan, model, stream)) if start is None else start.record
        branches = start is not None and job.needs is not None and start.task == 1 and start.epoch == 0
        record = taken_over(record, method) if branches else record
        trainer = cls(plan, job, stream, model, optimizer, synapses, order, record)
        if start is not None and synapses is not None:
            if method.name == "si":
                synapses.load_state_dict({**start.synapses, "c": synapses.c})
            elif branches:
                # The checkpoint of the first task knows of the path alone.
                synapses.consolidate(trainer.sample(0))
            else:
                synapses.load_state_dict(start.synapses)
        return trainer

    def data(self, task: int) -> Task:
        """Return what is learnt in this stage: a task, or all of them at once."""
        return _union(self.stream) if self.job.all_at_once else self.stream[task]

    def sample(self, task: int) -> list[tuple[Tensor, Tensor]]:
        """Return the images from which the Fisher information of a task is estimated."""
        data, first = self.stream[task], slice(self.plan.settings.fisher_images)
        return [(as_input(data.train_inputs[first]), data.train_targets[first])]

    def begin_task(self, task: int) -> None:
        """Take a fresh optimizer, and fresh weights, where experiment and method ask for them."""
        method = self.job.method or _FIRST
        if method.name == APART:
            self.model = _network(self.plan, method, self.job.seed, task)
        if method.name == APART or self.plan.experiment.fresh_optimizer:
            self.optimizer = _optimizer(self.plan, method, self.model, self._steps_before(task))
            if self.synapses is not None:
                self.synapses.attach(self.optimizer)

    def _steps_before(self, task: int) -> int:
        """Return from how many steps Adam's count goes on; from scratch the authors, too, begin with a fresh one."""
        if not self.plan.settings.keep_step_count or (self.job.method or _FIRST).name == APART:
            return 0
        return steps_before(self.plan.settings, self.stream, task)

    def end_task(self, task: int, train_accuracy: float, seconds: float) -> None:
        """Consolidate, and measure."""
        record, name = self.record, (self.job.method or _FIRST).name
        correlation = record.path_correlation
        if self.synapses is not None and self.synapses.importance.needs_data:
            self.synapses.consolidate(self.sample(task))
        elif self.synapses is not None:
            path = self.synapses.consolidate()
            if self.plan.experiment.correlates_paths:
                correlation = compare_paths(self.plan.checkpoints, self.job, task, path, correlation)
        row = _test(self.plan, self.model, self.stream)
        final_train = record.final_train_accuracy
        if name == APART:
            # Of each task the network that was trained on it; those that come are as untrained as they were.
            row = [*(before[j] for j, before in enumerate(record.accuracy)), row[task], *record.baseline[task + 1 :]]
        if name == APART or self.job.method is None:
            final_train = [*final_train, *_test(self.plan, self.model, [_training_data(self.stream[task])])]
        elif task + 1 == self.plan.stages(self.job).stop:
            final_train = _test(self.plan, self.model, [_training_data(data) for data in self.stream])
        self.record = replace(
            record,
            accuracy=[*record.accuracy, row],
            train_accuracy=[*record.train_accuracy, train_accuracy],
            final_train_accuracy=final_train,
            task_seconds=[*record.task_seconds, seconds],
            path_correlation=correlation,
        )

    def checkpoint(self, task: int, epoch: int, seconds: float) -> Checkpoint:
        """Return the state before ``epoch`` of ``task``, by reference."""
        goes_on = epoch > 0 or not self.plan.experiment.fresh_optimizer
        return Checkpoint(
            task=task,
            epoch=epoch,
            seconds=seconds,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict() if goes_on else {},
            synapses=self.synapses.state_dict() if self.synapses is not None else {},
            order=self.order.get_state(),
            noise=_noise(self.plan.device),
            record=self.record,
        )


def _network(plan: Plan, method: Method, seed: int, number: int) -> nn.Module:
    """Return the untrained network of this number, counted from 0: all of a seed's come from one generator in turn."""
    make = plan.experiment.network
    if method.name == "sgd-dropout":
        assert plan.experiment.dropout_network is not None  # the command line has seen to it
        make = plan.experiment.dropout_network
    generator = torch.Generator().manual_seed(2 * seed)
    model = make(generator)
    for _ in range(number):
        model = make(generator)
    return model.to(plan.device)


def _optimizer(plan: Plan, method: Method, model: nn.Module, steps_before: int = 0) -> torch.optim.Optimizer:
    if method.name == "sgd-dropout":
        return torch.optim.SGD(model.parameters(), lr=SGD_LR, fused=is_fused(plan.device))
    return adam(model.parameters(), lr=plan.settings.lr, steps_before=steps_before)


def _synapses(plan: Plan, method: Method, model: nn.Module, optimizer: torch.optim.Optimizer) -> Consolidator | None:
    if method.c is None:
        return None
    dtype = torch.bfloat16 if plan.settings.coarse_omega else None
    if method.name == "ewc":
        fisher = Fisher(model, cross_entropy, kind="exact")
        return Consolidator(model.named_parameters(), optimizer, fisher, c=method.c, omega_dtype=dtype)
    xi = plan.settings.xi
    return SynapticIntelligence(model.named_parameters(), optimizer, c=method.c, xi=xi, omega_dtype=dtype)


def _test(plan: Plan, model: nn.Module, stream: Stream) -> list[float]:
    return [evaluate(model, task, multi_head=plan.experiment.multi_head) for task in stream]


def _training_data(task: Task) -> Task:
    """Return the task with its training images as those to test on."""
    return replace(task, test_inputs=task.train_inputs, test_targets=task.train_targets)


def _union(stream: Stream) -> Task:
    inputs = torch.cat([task.train_inputs for task in stream])
    targets = torch.cat([task.train_targets for task in stream])
    classes = sorted({label for task in stream for label in task.classes})
    return Task("all", inputs, targets, stream[0].test_inputs, stream[0].test_targets, tuple(classes))


def _own_noise(device: str) -> AbstractContextManager[None]:
    """Return a context that leaves torch's global generators, which dropout draws from, as they were before it."""
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[torch.device(device)], device_type=kind)


def _noise(device: str) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.device(device).type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def _set_noise(states: list[Tensor], device: str) -> None:
    torch.set_rng_state(states[0])
    if torch.device(device).type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
