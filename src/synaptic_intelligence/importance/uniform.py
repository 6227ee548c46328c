"""Importance without any estimate: the same for every number, a plain anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.importance.estimator import TaskEnd


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """Every number is held alike, so nothing tells what was important: weight decay towards the anchor.

    Each task adds ``value`` once more. Frozen parameters gain none.

    Args:
        value: what a task adds to omega, in loss / theta^2. The pull is that of ``c * value``.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is not positive and finite.

    Source: Li, Grandvalet, Davoine 2018, *Explicit Inductive Bias for Transfer Learning with Convolutional Networks*,
    section 3 (L2-SP); their alpha is ``2 * c * value``.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, si.Uniform(), c=0.01)
        >>> _ = synapses.consolidate()  # the weights are those of a checkpoint
        >>> synapses.omega["weight"]
        tensor([[1., 1.]])
    """

    name: ClassVar[str] = "uniform"
    needs_data: ClassVar[bool] = False
    integrates_path: ClassVar[bool] = False

    value: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checked_number(self.value, "value", zero_is_fine=False))

    def settings(self) -> dict[str, float | str]:
        """Return ``value``."""
        return {"value": self.value}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return ``omega + value`` for each parameter, ``omega`` alone for those that are frozen."""
        # In the anchor's dtype: omega itself may have too few digits to add to.
        return {
            name: omega.to(end.anchor[name].dtype) + (self.value if end.parameters[name].requires_grad else 0.0)
            for name, omega in end.omega.items()
        }
