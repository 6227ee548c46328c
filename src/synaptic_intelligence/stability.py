"""Whether plain gradient descent with the synapses' pull settles, or swings ever wider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, optim

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.sharding import is_sharded, local
from synaptic_intelligence.strength import Strength, folded, pulls


@final
@dataclass(frozen=True, slots=True)
class Stiffest:
    """The parameter with the number that is pulled hardest for its optimizer.

    Attributes:
        name: of the parameter.
        ratio: rate times curvature, over the bound: from 1 up, the number swings ever wider.
        lr: the rate of its group. c: the strength of its group; None where each replicate has its own.
        largest_lr: the rate with which the ratio would be 1.
        largest_times: by what c may be multiplied, until the ratio is 1.
    """

    name: str
    ratio: float
    lr: float
    c: float | None
    largest_lr: float
    largest_times: float


def stability_bound(momentum: float, *, nesterov: bool) -> float:
    """Return the rate times curvature from which torch's SGD diverges on a quadratic loss.

    Args:
        momentum: 0 to below 1.
        nesterov: as torch has it.

    A number x with gradient h x and buffer b, at rate r, goes by b' = m b + h x and x' = x - r b', so that the step has
    the characteristic polynomial z^2 - (1 + m - r h) z + m; with Nesterov's x' = x - r (h x + m b') it is
    z^2 - (1 + m - (1 + m) r h) z + m (1 - r h). Both have their roots inside the unit circle until one is z = -1:
    r h = 2 (1 + m), and with Nesterov r h = 2 (1 + m) / (1 + 2 m).

    Source: Polyak 1964, *Some methods of speeding up the convergence of iteration methods* (heavy ball); Sutskever
    et al. 2013 (Nesterov's momentum, in torch's form).

    Example:
        >>> stability_bound(0.0, nesterov=False), stability_bound(0.5, nesterov=False)
        (2.0, 3.0)
        >>> stability_bound(0.5, nesterov=True)
        1.5
    """
    heavy_ball = 2 * (1 + momentum)
    return heavy_ball / (1 + 2 * momentum) if nesterov else heavy_ball


def stiffest(
    binding: Binding, omega: Mapping[str, Tensor], strength: Callable[[dict[str, Any], list[str]], Strength]
) -> Stiffest | None:
    """Return the parameter that is next to the bound, or furthest beyond it.

    Args:
        binding: the optimizer, and which parameters have synapses in it.
        omega: by name, in loss / theta^2; empty: nothing pulls.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.

    Returns:
        None where nothing pulls, and for optimizers that are neither torch's SGD nor derived from it: those that divide
        by the size of the gradient do not diverge so.

    Where parameters are sharded, every process must call this.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding = Binding({"w": p}, torch.optim.SGD([p], lr=0.1))
        >>> found = stiffest(binding, {"w": torch.tensor([30.0])}, lambda group, names: 1.0)
        >>> round(found.ratio, 6), round(found.largest_times, 6)  # 2 lr c omega = 6, and 2 is the bound
        (3.0, 0.333333)
    """
    if not (omega and isinstance(binding.optimizer, optim.SGD)):
        return None
    found = [
        each
        for _, group, names in binding.groups()
        if pulls(c := strength(group, names))
        for each in _of_group(group, names, _largest([folded(omega[name], c) for name in names]), c)
    ]
    return max(found, key=lambda each: each.ratio, default=None)


def _of_group(group: dict[str, Any], names: list[str], largest: list[float], c: Strength) -> list[Stiffest]:
    lr, decay, momentum = float(group["lr"]), float(group["weight_decay"]), float(group["momentum"])
    bound = stability_bound(momentum, nesterov=group["nesterov"])
    fresh = 1 - group["dampening"] if momentum else 1.0  # what enters the buffer of a gradient, after the first
    found = []
    for name, importance in zip(names, largest, strict=True):
        pull = 2 * importance
        curvature = fresh * (pull + decay)
        if importance > 0 and lr * curvature > 0:
            times = max(bound / (lr * fresh) - decay, 0.0) / pull
            ratio = lr * curvature / bound
            found.append(Stiffest(name, ratio, lr, None if isinstance(c, tuple) else c, bound / curvature, times))
    return found


def _largest(products: list[tuple[Tensor, float]]) -> list[float]:
    """Return the largest number of each tensor, times the factor beside it; of sharded ones, in all processes."""
    parts = [local(tensor) for tensor, _ in products]
    # A process may hold no part of a small parameter, and an empty tensor has no largest number.
    found = [part.max() if part.numel() else part.new_zeros(()) for part in parts]
    largest = torch.stack([number.to(found[0].device, torch.float32) for number in found])
    sharded: Any = next((tensor for tensor, _ in products if is_sharded(tensor)), None)
    if sharded is not None:
        for dimension in range(sharded.device_mesh.ndim):
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=sharded.device_mesh.get_group(dimension))
    return [number * factor for number, (_, factor) in zip(largest.tolist(), products, strict=True)]
