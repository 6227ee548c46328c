"""Every seed and strength of an experiment at once: networks of one shape, stacked along a leading axis, on one device.

A step of one small network leaves a GPU idle between launches; a step of the stack takes hardly longer. On a CPU
worker processes are no slower: results/replicates-cpu.json, by benchmarks/replicates.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from synaptic_intelligence.consolidator import SynapticIntelligence
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.experiments.checkpoint import Checkpoint, checkpoint_path, write_checkpoint
from synaptic_intelligence.experiments.job import NOISE_SEED
from synaptic_intelligence.experiments.optimizers import adam, steps_before
from synaptic_intelligence.experiments.paths import compare_paths
from synaptic_intelligence.experiments.plan import EpochDone, Job, JobStarted, Message, Plan, Record, TaskDone
from synaptic_intelligence.tasks import Stream, Task
from synaptic_intelligence.train import Epoch, as_input, mask_logits

# So many images for each network: activations of a hundred wide networks then still fit a GPU.
_TEST_BATCH = 1000


@final
class Stack:
    """Multilayer perceptrons of one shape as one network, whose parameters have a leading axis: the replicate.

    Args:
        networks: each an ``nn.Sequential`` of linear layers with ReLU between them; their weights are copied.

    ``parameters`` holds the stacked parameters by the names that they have in a single network, ``replicates`` is the
    number of networks.

    Raises:
        ValueError: other networks, or of different shapes.

    Example:
        >>> stack = Stack([nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(5)])
        >>> stack.parameters["0.weight"].shape, stack(torch.rand(5, 8, 4)).shape
        (torch.Size([5, 3, 4]), torch.Size([5, 8, 2]))
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        if not all(map(is_stackable, networks)):
            raise ValueError("only networks of linear layers with ReLU between them can be stacked")
        each = [dict(network.named_parameters()) for network in networks]
        if any({n: p.shape for n, p in other.items()} != {n: p.shape for n, p in each[0].items()} for other in each):
            raise ValueError("the networks have different shapes, so they cannot be stacked")
        self.replicates = len(networks)
        self.parameters = {n: nn.Parameter(torch.stack([own[n].detach() for own in each])) for n in each[0]}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs ``[R, B, outputs]`` of all networks, each for its own inputs of ``[R, B, inputs]``."""
        tensors = list(self.parameters.values())
        for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
            x = x if weight is tensors[0] else x.relu()
            # As fast as torch.func.vmap over the network, and plainer.
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        return x


def is_stackable(network: nn.Module) -> bool:
    """Whether a network is linear layers with ReLU between them, as :class:`Stack` needs.

    Example:
        >>> is_stackable(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))), is_stackable(nn.Linear(4, 3))
        (True, False)
    """
    if type(network) is not nn.Sequential or len(network) % 2 == 0:
        return False
    kinds = islice(cycle((nn.Linear, nn.ReLU)), len(network))
    biased = all(layer.bias is not None for layer in network if isinstance(layer, nn.Linear))
    return biased and [type(layer) for layer in network] == list(kinds)


def pay(plan: Plan) -> bool:
    """Whether the runs of a plan are better trained at once: several, of networks that can be, and not on a CPU."""
    many = plan.settings.seeds * len(plan.settings.c) > 1
    return many and torch.device(plan.device).type != "cpu" and is_stackable(plan.experiment.network(torch.Generator()))


def train_epoch_at_once(
    stack: Stack,
    optimizer: torch.optim.Optimizer,
    task: Task,
    *,
    batch_size: int,
    generators: Sequence[torch.Generator],
    multi_head: bool,
) -> list[Epoch]:
    """Train every network of the stack for one pass over the task, each in an order of its own.

    The same as :func:`~synaptic_intelligence.train.train_epoch` for each network by itself, as long as the optimizer
    never mixes replicates: the loss is a sum over them, so that each has the gradient of its own mean over its own
    batch. Clipping by a global norm has no place here, as one norm over the stack would mix them.

    Args:
        stack: the networks, on the device of the task.
        optimizer: of ``stack.parameters``, and elementwise, as torch's SGD and Adam are.
        task: what all of them learn.
        batch_size: images in a step of each network.
        generators: of each network, on the CPU; it shuffles the training data.
        multi_head: whether the logits of classes outside the task are masked.

    Returns:
        What each network's pass gave; ``seconds`` is its share of the time.

    Example:
        >>> x, y = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
        >>> task, stack = Task("which", x, y, x, y, classes=(0, 1)), Stack([nn.Sequential(nn.Linear(2, 2))] * 3)
        >>> optimizer = torch.optim.SGD(stack.parameters.values(), lr=1.0)
        >>> orders = [torch.Generator().manual_seed(seed) for seed in range(3)]
        >>> for _ in range(10):
        ...     done = train_epoch_at_once(
        ...         stack, optimizer, task, batch_size=4, generators=orders, multi_head=False)
        >>> [epoch.accuracy for epoch in done], evaluate_at_once(stack, task, multi_head=False)
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """
    started = time.perf_counter()
    inputs, targets = task.train_inputs, task.train_targets
    count, replicates = len(targets), stack.replicates
    orders = torch.stack([torch.randperm(count, generator=generator) for generator in generators]).to(targets.device)
    # Sums stay on the device until the end: reading them at each step would make the CPU wait for a GPU.
    losses = torch.zeros(replicates, device=targets.device)
    correct = torch.zeros(replicates, dtype=torch.int64, device=targets.device)
    head: Tensor | None = None
    for batch in torch.split(orders, batch_size, dim=1):
        x = as_input(inputs.index_select(0, batch.flatten())).unflatten(0, batch.shape)
        y = targets[batch]
        optimizer.zero_grad()
        logits = stack(x)
        if multi_head:
            head = mask_logits(torch.zeros_like(logits[0, :1]), task.classes) if head is None else head
            logits = logits + head
        loss = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(1)
        loss.sum().backward()
        optimizer.step()
        losses += loss.detach() * batch.shape[1]
        correct += (logits.detach().argmax(dim=2) == y).sum(1)
    rows = list(zip(losses.tolist(), correct.tolist(), strict=True))  # waits for the device, so before the clock
    seconds = (time.perf_counter() - started) / replicates
    return [Epoch(total / count, right / count, seconds) for total, right in rows]


@torch.no_grad()
def evaluate_at_once(stack: Stack, task: Task, *, multi_head: bool) -> list[float]:
    """Return the share (0 to 1) of the task's test examples that each network of the stack gets right.

    Example: see :func:`train_epoch_at_once`.
    """
    replicates = stack.replicates
    correct = torch.zeros(replicates, dtype=torch.int64, device=task.test_targets.device)
    for x, y in zip(task.test_inputs.split(_TEST_BATCH), task.test_targets.split(_TEST_BATCH), strict=True):
        logits = stack(as_input(x).expand(replicates, *x.shape))
        if multi_head:
            logits = logits + mask_logits(torch.zeros_like(logits[0, :1]), task.classes)
        correct += (logits.argmax(dim=2) == y).sum(1)
    return [right / len(task.test_targets) for right in correct.tolist()]


def train_replicates(plan: Plan, loaded: Stream, listen: Callable[[Message], None]) -> None:
    """Train every seed with every strength at once, and tell ``listen`` of each epoch and task of each job.

    Weights, orders of the images, steps and measurements are those of ``train_job`` for every job by itself, but for
    rounding. After each task the checkpoints of all jobs are written: a run that stops goes on from there, job by job.

    Args:
        plan: the jobs; those of rivals are left out.
        loaded: its tasks.
        listen: is told, as by ``train_job``; the seconds of a job are its share of the time of all.

    Raises:
        ValueError: the experiment's networks cannot be stacked.
        SynapseError: the training of a job has diverged: its loss is not finite.
    """
    stream = tuple(task.to(plan.device) for task in loaded)
    jobs = [job for job in plan.jobs if job.method is not None and job.method.name == "si"]
    strengths = [job.method.c for job in jobs if job.method is not None and job.method.c is not None]
    stack = Stack(
        [plan.experiment.network(torch.Generator().manual_seed(2 * job.seed)).to(plan.device) for job in jobs]
    )
    orders = [torch.Generator().manual_seed(2 * job.seed + 1) for job in jobs]
    optimizer = adam(stack.parameters.values(), lr=plan.settings.lr)
    c = torch.tensor(strengths, dtype=torch.float64, device="cpu")
    dtype = torch.bfloat16 if plan.settings.coarse_omega else None
    synapses = SynapticIntelligence(stack.parameters.items(), optimizer, c=c, xi=plan.settings.xi, omega_dtype=dtype)
    records = [Record(baseline=row) for row in _test(plan, stack, stream)]
    # A seed's first task is the same with all strengths: that of the first is told, kept, and taken over by the others.
    first = {job.seed: i for i, job in reversed(list(enumerate(jobs)))}
    for task in range(plan.settings.tasks):
        told = list(enumerate(jobs)) if task else [(i, Job(seed, None)) for seed, i in first.items()]
        if task < 2:
            for _, job in told:
                listen(JobStarted(job, task, 0))
        if task and plan.experiment.fresh_optimizer:
            counted = steps_before(plan.settings, stream, task) if plan.settings.keep_step_count else 0
            optimizer = adam(stack.parameters.values(), lr=plan.settings.lr, steps_before=counted)
            synapses.attach(optimizer)
        seconds, done = 0.0, list[Epoch]()
        for epoch in range(plan.settings.epochs):
            done = train_epoch_at_once(
                stack,
                optimizer,
                stream[task],
                batch_size=plan.settings.batch_size,
                generators=orders,
                multi_head=plan.experiment.multi_head,
            )
            for job, own in zip(jobs, done, strict=True):
                if not math.isfinite(own.loss):
                    raise SynapseError(f"{job}: the loss of task {task + 1} is not finite in epoch {epoch + 1}")
            seconds += done[0].seconds
            for i, job in told:
                listen(EpochDone(job, task, epoch, done[i].loss, done[i].accuracy, done[i].seconds))
        path = synapses.consolidate()
        rows = _test(plan, stack, stream)
        measured = stream[: task + 1] if task in (0, plan.settings.tasks - 1) else ()
        finals = _test(plan, stack, [_training_data(data) for data in measured])
        records = [
            replace(
                record,
                accuracy=[*record.accuracy, row],
                train_accuracy=[*record.train_accuracy, own.accuracy],
                final_train_accuracy=final or record.final_train_accuracy,
                task_seconds=[*record.task_seconds, seconds],
            )
            for record, row, own, final in zip(records, rows, done, finals, strict=True)
        ]
        for i, job in told:
            if plan.experiment.correlates_paths:
                correlation = compare_paths(plan.checkpoints, job, task, _one(path, i), records[i].path_correlation)
                records[i] = replace(records[i], path_correlation=correlation)
            kept = Checkpoint(
                task=task + 1,
                epoch=0,
                seconds=0.0,
                weights=_one(stack.parameters, i),
                optimizer={} if plan.experiment.fresh_optimizer else _one(optimizer.state_dict(), i),
                synapses=_one(synapses.state_dict(), i),
                order=orders[i].get_state(),
                noise=_untouched_noise(plan.device, job.seed),
                record=records[i],
            )
            write_checkpoint(kept, checkpoint_path(plan.checkpoints, job))
            listen(TaskDone(job, task, records[i]))
        if task == 0:
            records = [records[first[job.seed]] for job in jobs]


def _test(plan: Plan, stack: Stack, stream: Sequence[Task]) -> list[list[float]]:
    """Return for each replicate its accuracy on each task."""
    columns = [evaluate_at_once(stack, task, multi_head=plan.experiment.multi_head) for task in stream]
    return [[column[i] for column in columns] for i in range(stack.replicates)]


def _training_data(task: Task) -> Task:
    return replace(task, test_inputs=task.train_inputs, test_targets=task.train_targets)


def _one(state: Any, replicate: int) -> Any:
    """Return one replicate's part of a state: copies, as a slice would be saved with all that it is a slice of."""
    if isinstance(state, Mapping):
        return {key: _one(value, replicate) for key, value in state.items()}
    if isinstance(state, Tensor) and state.ndim:
        return state.detach()[replicate].clone()
    return state


def _untouched_noise(device: str, seed: int) -> list[Tensor]:
    kinds = ["cpu"] if torch.device(device).type == "cpu" else ["cpu", device]
    return [torch.Generator(kind).manual_seed(NOISE_SEED + seed).get_state() for kind in kinds]
