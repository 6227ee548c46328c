"""An ordinary training loop over a task in memory: the synapses act through the optimizer, unseen here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from synaptic_intelligence.tasks import Task

__all__ = ["Epoch", "as_input", "evaluate", "mask_logits", "train_epoch"]

# Large enough to be fast, small enough for the activations of a convolutional network.
_TEST_BATCH = 1000


@final
@dataclass(frozen=True)
class Epoch:
    """What one pass over a task's training data gave.

    ``loss`` (cross-entropy, in nats) and ``accuracy`` (0 to 1) are means over the examples, each taken as the
    network was just before it learnt from that example's batch; ``seconds`` is the time that the pass took.

    Example:
        >>> Epoch(loss=0.25, accuracy=0.93, seconds=1.5).accuracy
        0.93
    """

    loss: float
    accuracy: float
    seconds: float


def as_input(x: Tensor) -> Tensor:
    """Return what a network is fed: uint8 pixels (0 to 255) as float32 in [0, 1], floats unchanged.

    Example:
        >>> as_input(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


def mask_logits(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the logits ``[B, C]`` with those of every class outside ``classes`` at minus infinity.

    This is the head of one task in a network with a head for each: the other heads get probability and
    gradient zero.

    Raises:
        ValueError: there is no class, or one outside the columns 0 to C - 1.

    Source: Zenke, Poole & Ganguli 2017, section 5.1 (multi-head).

    Example:
        >>> mask_logits(torch.zeros(1, 4), classes=(0, 1)).softmax(dim=1)
        tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
    """
    return logits + _head(logits, classes)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    *,
    batch_size: int,
    generator: torch.Generator,
    multi_head: bool,
) -> Epoch:
    """Train the model for one pass over the task's training data, shuffled by ``generator`` (on the CPU).

    The last batch may be smaller. With ``multi_head`` the logits of classes outside the task are masked.
    Model and task are on the same device; the model is left in training mode.

    Raises:
        ValueError: ``batch_size`` is below 1, or the task has a class for which the model has no logit.

    Example:
        >>> x, y = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
        >>> task, model = Task("which", x, y, x, y, classes=(0, 1)), nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> shuffle = torch.Generator().manual_seed(0)
        >>> for _ in range(10):
        ...     epoch = train_epoch(model, optimizer, task, batch_size=4, generator=shuffle, multi_head=False)
        >>> epoch.accuracy, evaluate(model, task, multi_head=False)
        (1.0, 1.0)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    started = time.perf_counter()
    inputs, targets = task.train_inputs, task.train_targets
    order = torch.randperm(len(targets), generator=generator).to(targets.device)
    # Sums stay on the device until the end: reading them at each step would make the CPU wait for a GPU.
    loss_sum = torch.zeros((), device=targets.device)
    correct = torch.zeros((), dtype=torch.int64, device=targets.device)
    head: Tensor | None = None

    model.train()
    for batch in torch.split(order, batch_size):
        # index_select is three times as fast as inputs[batch].
        x, y = as_input(inputs.index_select(0, batch)), targets.index_select(0, batch)
        optimizer.zero_grad()
        logits = model(x)
        if multi_head:
            head = _head(logits, task.classes) if head is None else head
            logits = logits + head
        loss = cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(batch)
        correct += (logits.detach().argmax(dim=1) == y).sum()

    count = len(targets)
    return Epoch(float(loss_sum) / count, int(correct) / count, time.perf_counter() - started)


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, *, multi_head: bool) -> float:
    """Return the share (0 to 1) of the task's test examples that the model in evaluation mode gets right.

    With ``multi_head`` the logits of classes outside the task are masked. Every module is put back in the
    mode (training or evaluation) that it was in.

    Raises:
        ValueError: with ``multi_head``, the task has a class for which the model has no logit.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 2])
        >>> evaluate(nn.Identity(), Task("which", x, y, x, y, classes=(0, 1, 2)), multi_head=True)
        1.0
    """
    inputs, targets = task.test_inputs, task.test_targets
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        correct = torch.zeros((), dtype=torch.int64, device=targets.device)
        batches = zip(torch.split(inputs, _TEST_BATCH), torch.split(targets, _TEST_BATCH), strict=True)
        for x, y in batches:
            logits = model(as_input(x))
            logits = mask_logits(logits, task.classes) if multi_head else logits
            correct += (logits.argmax(dim=1) == y).sum()
    finally:
        for module, training in modes:
            module.training = training
    return int(correct) / len(targets)


def _head(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the row ``[C]`` that masks logits when added: 0 at the classes, minus infinity elsewhere."""
    if not classes or not all(0 <= label < logits.shape[1] for label in classes):
        raise ValueError(f"classes must be some of the logits' 0 to {logits.shape[1] - 1}, not {classes}")
    head = torch.full(logits.shape[1:], -math.inf, dtype=logits.dtype)
    head[list(classes)] = 0.0
    return head.to(logits.device)
