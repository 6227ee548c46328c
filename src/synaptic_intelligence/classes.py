"""Which classes a task has shown, and which the earlier ones: to notice one head in a class-incremental stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

LABELS = 2**16
"""So many labels are told apart; all from there up count as one."""

KNOWN = 0.1
"""With a larger share of labels that earlier tasks had too, a task does not bring new classes."""

# The gradients of a softmax's logits add up to zero; in bfloat16 but for its rounding.
_ADD_UP_TO_ZERO = 0.01


@final
class Classes:
    """The class labels of the present task, and those of the tasks before it.

    They are noted on the device of the targets, in a byte for each label, and read only when somebody asks, so that no
    step waits for the device. Where several processes train one model, they are those that this process saw.

    Example:
        >>> classes = Classes()
        >>> classes.observe(torch.tensor([0, 1, 1, -100]))  # below zero: no label, as with ignore_index
        >>> classes.end_task()
        >>> classes.observe(torch.tensor([2, 1]))
        >>> classes.present(), classes.earlier()
        ({1, 2}, {0, 1})
    """

    def __init__(self) -> None:
        self._present: Tensor | None = None
        self._earlier: Tensor | None = None

    @torch.no_grad()
    def observe(self, targets: Tensor) -> None:
        """Note the labels of a batch; targets that are no whole numbers, as in regression, are passed over.

        Args:
            targets: any shape.

        Raises:
            TypeError: not a tensor.
        """
        if not isinstance(targets, Tensor):
            raise TypeError(f"targets must be a tensor of class labels, or None, not {type(targets).__name__}")
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            return
        if self._present is None or self._present.device != targets.device:
            moved = torch.zeros(LABELS + 1, dtype=torch.bool, device=targets.device)
            self._present = moved if self._present is None else self._present.to(targets.device)
        places = targets.detach().reshape(-1).to(torch.int64).clamp(-1, LABELS - 1) + 1  # 0 is for what is no label
        self._present.index_fill_(0, places, True)

    def end_task(self) -> None:
        """Count the present labels among the earlier ones."""
        if self._present is not None:
            known = self._present if self._earlier is None else self._earlier.to(self._present.device) | self._present
            self._earlier, self._present = known, None

    def present(self) -> set[int]:
        """Return the labels of the present task; reads from the device."""
        return _labels(self._present)

    def earlier(self) -> set[int]:
        """Return the labels of the tasks before it; reads from the device."""
        return _labels(self._earlier)

    def outputs_moved(self, parameters: Sequence[Tensor]) -> int:
        """Return how many outputs of old classes get a gradient in a task of new classes; else 0.

        Args:
            parameters: in the order of the model, with the gradients of a batch of the present task.

        Example:
            >>> classes, head = Classes(), torch.nn.Linear(3, 4)
            >>> for labels in (torch.tensor([0, 1]), torch.tensor([2, 3])):  # two tasks, one head
            ...     classes.end_task()
            ...     classes.observe(labels)
            >>> torch.nn.functional.cross_entropy(head(torch.ones(2, 3)), labels).backward()
            >>> classes.outputs_moved(list(head.parameters()))
            2
        """
        present, earlier = self.present(), self.earlier()
        if not (present and earlier) or len(present & earlier) > KNOWN * len(present):
            return 0
        gradient = _output_gradient(parameters)
        if gradient is None or len(gradient) <= max(present | earlier):
            return 0
        old = torch.tensor(sorted(earlier - present), device=gradient.device)
        return int((gradient.index_select(0, old) != 0).flatten(1).any(dim=1).sum())


def _output_gradient(parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the gradient of the output layer's matrix: the last whose rows add up to zero, as a softmax's do.

    By that it is told from hidden layers, which may have as many rows, and come later.
    """
    for parameter in reversed(parameters):
        gradient = parameter.grad
        if gradient is None or gradient.layout is not torch.strided or gradient.ndim < 2 or len(gradient) < 2:
            continue
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        size = float(wide.abs().sum(dim=0).norm())
        if size > 0 and float(wide.sum(dim=0).norm()) <= _ADD_UP_TO_ZERO * size:
            return gradient
    return None


def _labels(seen: Tensor | None) -> set[int]:
    return set() if seen is None else set(seen[1:].nonzero().flatten().tolist())
