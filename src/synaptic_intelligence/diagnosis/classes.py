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

VOID = 255
"""What data sets for segmentation give to pixels without a class, for the loss to ignore."""

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

    def outputs_moved(self, parts: Sequence[Sequence[Tensor]]) -> int:
        """Return how many outputs of old classes get a gradient in a task of new classes; else 0.

        Args:
            parts: of a model, each in its order, with the gradients of a batch of the present task. Which part comes
                last is not known, so where several may hold the output layer, it is that with the fewest such outputs.

        Example:
            >>> classes, head = Classes(), torch.nn.Linear(3, 4)
            >>> for labels in (torch.tensor([0, 1]), torch.tensor([2, 3])):  # two tasks, one head
            ...     classes.end_task()
            ...     classes.observe(labels)
            >>> torch.nn.functional.cross_entropy(head(torch.ones(2, 3)), labels).backward()
            >>> classes.outputs_moved([list(head.parameters())])
            2
        """
        present, earlier = self.present(), self.earlier()
        if not (present and earlier):
            return 0
        gradients = [gradient for part in parts if (gradient := _output_gradient(part)) is not None]
        return min((_old_outputs(gradient, present, earlier) for gradient in gradients), default=0)


def _old_outputs(gradient: Tensor, present: set[int], earlier: set[int]) -> int:
    """Return how many rows of old classes are not zero, if the rows may be those of the classes, and these are new."""
    beyond = {label for label in present | earlier if label >= len(gradient)}
    # One label may be none, as an ignore_index is: in all tasks, or 255. Else these rows are of something else.
    if len(beyond) > 1 or not beyond <= (present & earlier | {VOID}):
        return 0
    now, before = present - beyond, earlier - beyond
    if not (now and before) or len(now & before) > KNOWN * len(now):
        return 0
    old = torch.tensor(sorted(before - now), device=gradient.device)
    return int((gradient.index_select(0, old) != 0).flatten(1).any(dim=1).sum())


def _output_gradient(parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the gradient of the last matrix whose rows add up to zero, as a softmax's do.

    Those of a layer before LayerNorm do so too, and come earlier.
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
