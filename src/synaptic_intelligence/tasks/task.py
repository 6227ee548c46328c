"""A task: data to train on, data to test on, and the classes that occur in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Task:
    """One thing to learn, held in memory; a whole data set is a task with all of its classes.

    ``train_inputs`` and ``test_inputs`` have shape ``[N, ...]`` and hold either uint8 pixels (0 to 255) or
    floats; ``train_targets`` and ``test_targets`` have shape ``[N]``, int64. ``classes`` holds the labels
    that may occur, ascending. The labels are the data set's own: in a split of MNIST the digit 7 stays 7.

    Raises:
        ValueError: shapes, types or labels do not fit together; the message names the field.

    Example:
        >>> pixels, labels = torch.zeros(4, 784, dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
        >>> Task("0/1", pixels, labels, pixels[:2], labels[:2], classes=(0, 1))
        Task('0/1', train=4, test=2, inputs=[784] uint8, classes=(0, 1))
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.classes or list(self.classes) != sorted(set(self.classes)):
            raise ValueError(f"task {self.name!r}: classes must ascend, without repeats: {self.classes}")
        self._check("train", self.train_inputs, self.train_targets)
        self._check("test", self.test_inputs, self.test_targets)
        train, test = self.train_inputs, self.test_inputs
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise ValueError(
                f"task {self.name!r}: train_inputs and test_inputs must have the same shape and type each, "
                f"not {list(train.shape[1:])} {train.dtype} and {list(test.shape[1:])} {test.dtype}"
            )

    def _check(self, part: str, inputs: Tensor, targets: Tensor) -> None:
        where = f"task {self.name!r}: {part}"
        if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
            raise ValueError(f"{where}_inputs must be uint8 pixels or floating point, not {inputs.dtype}")
        if targets.dtype != torch.int64 or targets.ndim != 1:
            raise ValueError(f"{where}_targets must be int64 of shape [N], not {targets.dtype} {list(targets.shape)}")
        if inputs.ndim == 0 or len(inputs) != len(targets) or len(targets) == 0:
            raise ValueError(
                f"{where}_inputs have shape {list(inputs.shape)} and {part}_targets {list(targets.shape)}; "
                "both need the same number of examples, at least one"
            )
        known = torch.isin(targets, torch.tensor(self.classes, device=targets.device))
        if not known.all():
            others = sorted(set(targets[~known].tolist()))
            raise ValueError(f"{where}_targets hold labels outside classes={self.classes}: {others[:10]}")

    def to(self, device: torch.device | str) -> Task:
        """Return the task with its tensors on ``device``; those that are there already are shared.

        Example:
            >>> x, y = torch.rand(3, 2), torch.tensor([0, 1, 0])
            >>> Task("tiny", x, y, x, y, classes=(0, 1)).to("cpu").train_inputs is x
            True
        """
        return Task(
            self.name,
            self.train_inputs.to(device),
            self.train_targets.to(device),
            self.test_inputs.to(device),
            self.test_targets.to(device),
            self.classes,
        )

    def __repr__(self) -> str:
        shape, kind = list(self.train_inputs.shape[1:]), str(self.train_inputs.dtype).removeprefix("torch.")
        return (
            f"Task({self.name!r}, train={len(self.train_targets)}, test={len(self.test_targets)}, "
            f"inputs={shape} {kind}, classes={self.classes})"
        )


Stream: TypeAlias = Sequence[Task]
"""Tasks in the order in which they are learnt."""
