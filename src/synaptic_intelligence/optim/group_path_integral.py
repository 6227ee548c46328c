"""The path integral where damping is an option of each parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.importance import PathIntegral, TaskEnd
from synaptic_intelligence.in_place import consolidated_omega_


@final
class GroupPathIntegral:
    """Importance as :class:`~synaptic_intelligence.PathIntegral` has it, with ``xi`` from each parameter's group.

    Args:
        optimizer: whose groups have the option ``xi``.
        group_of: the index of each parameter's group, by name; the parameters may be new objects since.

    Source: Zenke et al. 2017, eq. 5, as the authors implement it (relu of the running sum).

    Example:
        >>> import torch
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> GroupPathIntegral(torch.optim.SGD([{"params": [p], "xi": 0.1}]), {"p": 0}).settings()
        {'xi': 0.1}
    """

    name: ClassVar[str] = PathIntegral.name
    needs_data: ClassVar[bool] = False
    integrates_path: ClassVar[bool] = True

    def __init__(self, optimizer: Optimizer, group_of: Mapping[str, int]) -> None:
        self._optimizer, self._group_of = optimizer, group_of

    def _xi(self, group: dict[str, Any]) -> float:
        return PathIntegral(group["xi"]).xi

    def settings(self) -> dict[str, float | str]:
        """Return ``xi``: a number, or in words where it differs between the groups that have synapses."""
        found = [self._xi(group) for group in self._optimizer.param_groups if group.get("c", 0.0) is not None]
        return {"xi": found[0] if len(set(found)) == 1 else ", ".join(map(repr, found))}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return ``relu(omega + path / ((theta - anchor)^2 + xi))`` for each parameter."""
        xi = {name: self._xi(self._optimizer.param_groups[self._group_of[name]]) for name in end.path}
        return {
            name: consolidated_omega_(end.omega[name], path, end.parameters[name].detach() - end.anchor[name], xi[name])
            for name, path in end.path.items()
        }
