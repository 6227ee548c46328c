"""Streams of tasks made from one data set: split by class, or with permuted pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from synaptic_intelligence.tasks.task import Task


def split_by_class(data: Task, groups: Sequence[Sequence[int]]) -> tuple[Task, ...]:
    """Return one task per group of classes, with the examples of these classes in their old order.

    Labels stay as they are; a network with one head per task masks the logits of the other classes. Classes
    in no group are left out. The tasks are named by their classes: ``0/1``, or ``0-9`` for a run of more than
    two.

    Raises:
        ValueError: ``groups`` is empty or has an empty group, a class that ``data`` lacks, or a class twice.

    Source: Zenke, Poole & Ganguli 2017, section 5.1 (split MNIST).

    Example:
        >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 2, 3])
        >>> data = Task("data", x, y, x, y, classes=(0, 1, 2, 3))
        >>> [(task.name, task.classes) for task in split_by_class(data, [(0, 1), (2, 3)])]
        [('0/1', (0, 1)), ('2/3', (2, 3))]
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError(f"groups must be one or more groups of one or more classes each: {groups}")
    counts = Counter(label for group in groups for label in group)
    if unknown := sorted(counts.keys() - set(data.classes)):
        raise ValueError(f"groups names classes {unknown}; {data.name!r} has {data.classes} alone")
    if repeated := sorted(label for label, count in counts.items() if count > 1):
        raise ValueError(f"groups names classes more than once: {repeated}")
    return tuple(_with_classes(data, tuple(sorted(group))) for group in groups)


def permute_pixels(data: Task, tasks: int, seed: int, *, first_identity: bool = True) -> tuple[Task, ...]:
    """Return ``tasks`` versions of ``data``, each with its inputs' pixels in an order of its own.

    Training and test inputs of a task share the order. The orders depend on ``seed`` alone: not on torch's
    global random state, and that of the k-th task not on how many tasks there are or on ``first_identity``,
    which leaves the first task as it is (and shares its tensors with ``data``).

    Raises:
        ValueError: ``tasks`` is below 1, or the inputs are not of shape ``[N, pixels]``.

    Source: Zenke, Poole & Ganguli 2017, section 5.2 (permuted MNIST); Goodfellow et al. 2013.

    Example:
        >>> x, y = torch.arange(8.0).view(2, 4), torch.tensor([0, 1])
        >>> first, second = permute_pixels(Task("d", x, y, x, y, (0, 1)), tasks=2, seed=0)
        >>> first.train_inputs is x, sorted(second.train_inputs[0].tolist())
        (True, [0.0, 1.0, 2.0, 3.0])
    """
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1, not {tasks}")
    if data.train_inputs.ndim != 2:
        shape = list(data.train_inputs.shape)
        raise ValueError(f"the inputs of {data.name!r} must be flattened to [N, pixels]; they are {shape}")
    generator = torch.Generator().manual_seed(seed)
    stream = []
    for number in range(1, tasks + 1):
        # Drawn for the first task too, used or not, so that the later orders do not depend on first_identity.
        order = torch.randperm(data.train_inputs.shape[1], generator=generator)
        as_is = number == 1 and first_identity
        name = f"permutation {number}"
        stream.append(replace(data, name=name) if as_is else _with_order(data, name, order))
    return tuple(stream)


def _with_classes(data: Task, classes: tuple[int, ...]) -> Task:
    adjacent = len(classes) > 2 and classes[-1] - classes[0] == len(classes) - 1
    name = f"{classes[0]}-{classes[-1]}" if adjacent else "/".join(map(str, classes))
    wanted = torch.tensor(classes, device=data.train_targets.device)
    train, test = torch.isin(data.train_targets, wanted), torch.isin(data.test_targets, wanted)
    return Task(
        name,
        data.train_inputs[train],
        data.train_targets[train],
        data.test_inputs[test],
        data.test_targets[test],
        classes,
    )


def _with_order(data: Task, name: str, order: Tensor) -> Task:
    order = order.to(data.train_inputs.device)
    # index_select takes a third of the time of inputs[:, order].
    return replace(
        data,
        name=name,
        train_inputs=data.train_inputs.index_select(1, order),
        test_inputs=data.test_inputs.index_select(1, order),
    )
