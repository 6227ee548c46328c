"""The seam for importance estimators: what each is given when a task ends, and what it must offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True, slots=True)
class TaskEnd:
    """All that an estimator sees when a task ends; nothing in it may be changed.

    Attributes:
        parameters: the live parameters by name.
        anchor: where they were at the end of the last task, in theta.
        path: path integral of this task, in units of the loss; empty for estimators that do not integrate.
        omega: importance so far, in loss / theta^2.
        data: batches of (inputs, targets) from the task; None for estimators that need none.

    Example:
        >>> import torch
        >>> end = TaskEnd({"w": torch.ones(1)}, {"w": torch.zeros(1)}, {}, {"w": torch.zeros(1)}, None)
        >>> end.parameters["w"] - end.anchor["w"]
        tensor([1.])
    """

    parameters: Mapping[str, Tensor]
    anchor: Mapping[str, Tensor]
    path: Mapping[str, Tensor]
    omega: Mapping[str, Tensor]
    data: Batches | None


class Importance(Protocol):
    """What an importance estimator offers to a :class:`~synaptic_intelligence.Consolidator`.

    An estimator holds settings alone; the consolidator holds the state. A new one is one file with one final class,
    and passes ``tests/importance/test_contract.py``.

    Example:
        >>> from synaptic_intelligence import PathIntegral
        >>> estimator: Importance = PathIntegral(xi=0.1)
        >>> estimator.name, estimator.needs_data, estimator.integrates_path
        ('path_integral', False, True)
    """

    @property
    def name(self) -> str:
        """The estimator's name in saved state."""

    @property
    def needs_data(self) -> bool:
        """Whether ``consolidate`` must be given data; if not, data is refused."""

    @property
    def integrates_path(self) -> bool:
        """Whether the path integral is accumulated at each step."""

    def settings(self) -> dict[str, float | str]:
        """Return the settings that the numbers depend on, as saved with them."""

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return the importance of every parameter after the task, in new tensors."""


def refuse_other_data(estimator: Importance, data: object, method: str) -> None:
    """Raise a TypeError if data is missing, or given to an estimator that uses none.

    Example:
        >>> from synaptic_intelligence import PathIntegral
        >>> refuse_other_data(PathIntegral(xi=0.1), None, "consolidate")
    """
    if estimator.needs_data and data is None:
        raise TypeError(f"{method}(data) needs batches of (inputs, targets): {estimator.name} estimates from data")
    if not estimator.needs_data and data is not None:
        raise TypeError(f"{method}() takes no data: {estimator.name} uses none")
