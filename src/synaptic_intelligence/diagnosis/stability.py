"""Whether plain gradient descent with the synapses' pull settles, or swings ever wider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.sharding import is_sharded, local
from synaptic_intelligence.strength import Strength, folded, pulls

StrengthOf: TypeAlias = Callable[[dict[str, Any], list[str]], Strength]

Peaks: TypeAlias = dict[int, tuple[str, float]]
"""Of each parameter group, by its index: the parameter with the largest importance, and that importance."""

# By name, as the second is above this module. What is derived from them may step otherwise.
_PLAIN_SGD = {("torch.optim.sgd", "SGD"), ("synaptic_intelligence.optim.sgd", "SGD")}


@final
@dataclass(frozen=True, slots=True)
class Stiffest:
    """The parameter with the number that is pulled hardest for its optimizer.

    Attributes:
        name: of the parameter.
        ratio: rate times curvature, over the bound: from 1 up, the number swings ever wider.
        lr: the rate of its group. c: the strength of its group; None where each replicate has its own.
        largest_lr: the rate with which the ratio would be 1.
        largest_times: by what c may be multiplied, until the ratio is 1; 0 where weight decay alone is too much.
        own_c_of: the index of its group, where that sets a c of its own; None where it goes by that of the synapses.

    Example:
        >>> print(Stiffest("w", ratio=2.0, lr=0.1, c=1.0, largest_lr=0.05, largest_times=0.5, own_c_of=None))
        the pull on 'w' is 2 times what SGD can follow, so that weights swing ever wider: set c below 0.5, or ...
    """

    name: str
    ratio: float
    lr: float
    c: float | None
    largest_lr: float
    largest_times: float
    own_c_of: int | None

    @property
    def diverges(self) -> bool:
        """Whether it swings ever wider."""
        return self.ratio >= 1

    def __str__(self) -> str:
        wider = f"{self.ratio:.3g} times what SGD can follow, so that weights swing ever wider"
        if not self.largest_times:
            return (
                f"weight_decay alone makes the step on {self.name!r} too long: with the pull it is {wider}: set lr "
                f"below {self.largest_lr:.3g}, or lower weight_decay"
            )
        c = "c" if self.own_c_of is None else f"c of parameter group {self.own_c_of}"
        c = f"multiply {c} by less than" if self.c is None else f"set {c} below"
        largest = self.largest_times * (1.0 if self.c is None else self.c)
        return f"the pull on {self.name!r} is {wider}: {c} {largest:.3g}, or lr below {self.largest_lr:.3g}"


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


def is_plain_sgd(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is torch's SGD, or that with synapses inside, itself.

    Example:
        >>> is_plain_sgd(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
        True
    """
    kind = type(optimizer)
    return (kind.__module__, kind.__qualname__) in _PLAIN_SGD


def stiffest(binding: Binding, omega: Mapping[str, Tensor], strength: StrengthOf) -> Stiffest | None:
    """Return the parameter that is next to the bound, or furthest beyond it; reads from the device.

    Args:
        binding: the optimizer, and which parameters have synapses in it.
        omega: by name, in loss / theta^2; empty: nothing pulls.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.

    Returns:
        None where nothing pulls, and where the optimizer is not :func:`is_plain_sgd`: those that divide by the size of
        the gradient do not diverge so, and of others it is not known.

    Where parameters are sharded, every process must call this.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding = Binding({"w": p}, torch.optim.SGD([p], lr=0.1))
        >>> found = stiffest(binding, {"w": torch.tensor([30.0])}, lambda group, names: 1.0)
        >>> round(found.ratio, 6), round(found.largest_times, 6)  # 2 lr c omega = 6, and 2 is the bound
        (3.0, 0.333333)
    """
    if not (omega and is_plain_sgd(binding.optimizer)):
        return None
    strengths = _strengths(binding, strength)
    return _hardest(binding, _peaks(binding, omega, strengths), strengths, may_read=True)


@final
class Watch:
    """Looks whether steps stay within the bound, as rates and strengths change from one to the next.

    The largest importance of each parameter group is read from the device once for each omega, and lies on the host
    from then on.

    Args:
        binding, strength: as for :func:`stiffest`.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([p], lr=0.1)
        >>> watch = Watch(Binding({"w": p}, optimizer), lambda group, names: 1.0)
        >>> omega, version = {"w": torch.tensor([5.0])}, object()
        >>> watch.look(omega, version).diverges
        False
        >>> optimizer.param_groups[0]["lr"] = 0.3
        >>> watch.look(omega, version).diverges
        True
    """

    def __init__(self, binding: Binding, strength: StrengthOf) -> None:
        self._binding, self._strength = binding, strength
        self._peaks: Peaks = {}
        self._of: tuple[object, list[Strength]] | None = None  # what the peaks were read of

    @torch.no_grad()
    def look(self, omega: Mapping[str, Tensor], version: object) -> Stiffest | None:
        """Return what :func:`stiffest` does, but for groups whose rate lies on an accelerator: these are passed over.

        Args:
            omega: by name, in loss / theta^2.
            version: one object as long as omega holds the same numbers, wherever they are moved.

        Where parameters are sharded, every process must call this.
        """
        if not (omega and is_plain_sgd(self._binding.optimizer)):
            return None
        strengths = _strengths(self._binding, self._strength)
        within: list[Strength] = [c for c in strengths.values() if isinstance(c, tuple)]  # these are in the peaks
        if self._of is None or self._of[0] is not version or self._of[1] != within:
            self._peaks, self._of = _peaks(self._binding, omega, strengths), (version, within)
        return _hardest(self._binding, self._peaks, strengths, may_read=False)


def _strengths(binding: Binding, strength: StrengthOf) -> dict[int, Strength]:
    return {index: strength(group, names) for index, group, names in binding.groups()}


def _peaks(binding: Binding, omega: Mapping[str, Tensor], strengths: Mapping[int, Strength]) -> Peaks:
    """Read the largest importance of each group; where each replicate has a strength of its own, times that."""
    rows = [
        (index, name, folded(omega[name], strengths[index])[0])
        for index, _, names in binding.groups()
        for name in names
    ]
    peaks: Peaks = {}
    for (index, name, _), importance in zip(rows, _largest([tensor for _, _, tensor in rows]), strict=True):
        if importance > peaks.get(index, (name, 0.0))[1]:
            peaks[index] = name, importance
    return peaks


def _hardest(binding: Binding, peaks: Peaks, strengths: Mapping[int, Strength], *, may_read: bool) -> Stiffest | None:
    own, found = binding.own_strengths(), []
    for index, group, _ in binding.groups():
        rate, c = group["lr"], strengths[index]
        if index not in peaks or not pulls(c) or (isinstance(rate, Tensor) and not rate.is_cpu and not may_read):
            continue
        name, importance = peaks[index]
        pull = 2 * importance * (1.0 if isinstance(c, tuple) else c)
        lr, decay, momentum = float(rate), float(group["weight_decay"]), float(group["momentum"])
        bound = stability_bound(momentum, nesterov=group["nesterov"])
        fresh = 1 - group["dampening"] if momentum else 1.0  # what enters the buffer of a gradient, after the first
        curvature = fresh * (pull + decay)
        if lr * curvature > 0 and pull > 0:
            times = max(bound / (lr * fresh) - decay, 0.0) / pull
            strongest, owner = None if isinstance(c, tuple) else c, index if index in own else None
            found.append(Stiffest(name, lr * curvature / bound, lr, strongest, bound / curvature, times, owner))
    return max(found, key=lambda each: each.ratio, default=None)


def _largest(tensors: list[Tensor]) -> list[float]:
    """Return the largest number of each tensor, at least 0; of sharded ones, in all processes."""
    parts = [local(tensor) for tensor in tensors]
    # A process may hold no part of a small parameter, and an empty tensor has no largest number.
    found = [part.max() if part.numel() else part.new_zeros(()) for part in parts]
    largest = torch.stack([number.to(found[0].device, torch.float32) for number in found])
    for mesh, places in _by_mesh(tensors).items():
        here = largest[places]
        for group in mesh.get_all_groups():
            dist.all_reduce(here, dist.ReduceOp.MAX, group=group)
        largest[places] = here
    numbers: list[float] = largest.tolist()
    return numbers


def _by_mesh(tensors: Iterable[Tensor]) -> dict[Any, list[int]]:
    """Return the places of sharded tensors by the processes over which they are."""
    places: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        if is_sharded(tensor):
            sharded: Any = tensor
            places.setdefault(sharded.device_mesh, []).append(place)
    return places
