"""Importance by the path integral: synaptic intelligence itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.in_place import consolidated_omega_


@final
@dataclass(frozen=True, slots=True)
class PathIntegral:
    """Importance is how much a synapse's own movement lowered the loss, over the square of its way.

    Args:
        xi: damping, in theta^2; it bounds the importance of synapses that hardly moved. The paper takes 1e-3 for
            Split MNIST and CIFAR, 0.1 for permuted MNIST.

    Raises:
        TypeError: ``xi`` is not a number.
        ValueError: ``xi`` is not positive and finite.

    Source: Zenke et al. 2017, eq. 5, as the authors implement it (relu of the running sum).

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, si.PathIntegral(xi=0.1), c=1.0)
    """

    name: ClassVar[str] = "path_integral"
    needs_data: ClassVar[bool] = False
    integrates_path: ClassVar[bool] = True

    xi: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "xi", checked_number(self.xi, "xi", zero_is_fine=False))

    def settings(self) -> dict[str, float | str]:
        """Return ``xi``."""
        return {"xi": self.xi}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return ``relu(omega + path / ((theta - anchor)^2 + xi))`` for each parameter."""
        return {
            name: consolidated_omega_(end.omega[name], path, end.parameters[name].detach() - end.anchor[name], self.xi)
            for name, path in end.path.items()
        }
