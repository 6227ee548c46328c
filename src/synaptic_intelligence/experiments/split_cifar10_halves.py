"""Split CIFAR-10 in halves: two tasks of five classes each, one head per task (supplement of the paper).

    synaptic run split-cifar10-halves

The supplement tells of c = 0 and of consolidation with c > 0, and not which: here it is 0.1, as in five tasks. Nor does
it say xi: here it is that of the paper's benchmark on CIFAR.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from synaptic_intelligence.data import load_cifar10
from synaptic_intelligence.experiments.split_cifar10 import SPLIT_CIFAR10
from synaptic_intelligence.tasks import Stream, split_by_class

PAPER = replace(SPLIT_CIFAR10.paper, seeds=10, tasks=2)
"""The settings of the paper's supplement; network, epochs, batches and optimizer are those of five tasks."""

CLASSES = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


def task_names(tasks: int) -> tuple[str, ...]:
    """Return the names of the first tasks."""
    return tuple(f"{classes[0]}-{classes[-1]}" for classes in CLASSES[:tasks])


def stream(data_dir: Path | None = None, tasks: int = 2) -> Stream:
    """Return the first tasks: airplane, automobile, bird, cat or deer; then dog, frog, horse, ship or truck.

    Raises:
        DataError: CIFAR-10 is missing or damaged.

    Source: Zenke et al. 2017, supplementary material.
    """
    return split_by_class(load_cifar10(data_dir), CLASSES[:tasks])


SPLIT_CIFAR10_HALVES = replace(
    SPLIT_CIFAR10,
    name="split-cifar10-halves",
    title="Split CIFAR-10 in halves",
    what="two tasks of five classes, a convolutional network, one head each",
    source="supplement",
    paper=PAPER,
    quick=replace(PAPER, seeds=1, epochs=1, batch_size=32, limit=256),
    protocol=SPLIT_CIFAR10.protocol
    | {"network": SPLIT_CIFAR10.protocol["network"].replace("two outputs per task", "five outputs per task")},
    task_names=task_names,
    most_tasks=len(CLASSES),
    chance=0.2,
    stream=stream,
)
