"""How many numbers a step leaves exactly where they were, from a sample at few steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor

from synaptic_intelligence.diagnosis.warned import Warned
from synaptic_intelligence.sharding import is_sharded, local

EVERY = 64
"""Of so many steps, one is looked at."""

NUMBERS = 64
"""How many numbers are looked at in each parameter; those of smaller ones several times."""

Row: TypeAlias = tuple[Tensor, Tensor | None, float | Tensor | None]
"""A parameter, the gradient of its task loss and the learning rate of its group; None: there is none."""

_Place: TypeAlias = tuple[torch.device, Any]
"""A device, and the mesh of processes over which parameters are sharded there, if they are."""

_FIRST = 5  # no first step of a training, which may be one of a warm-up
_APART = 25  # by so much later from one to the next: EVERY over the golden ratio's square, and odd, to come to each
_ENOUGH = 2  # samples: one step may be unlike the others
_BITS = 20  # by which places between two numbers of a sample are told apart


class Counts(NamedTuple):
    """How many numbers a step was to move, and how many of them stayed where they were.

    Attributes:
        driven, still: numbers of parameters, summed over the samples.
        samples: steps that were looked at, in which there were any.

    Example:
        >>> Counts(driven=200.0, still=50.0, samples=2).share
        0.25
    """

    driven: float
    still: float
    samples: float

    @property
    def share(self) -> float | None:
        """The share that stayed, 0 to 1; None if none was looked at."""
        return self.still / self.driven if self.driven else None

    @property
    def enough(self) -> bool:
        """Whether there are samples enough to judge by."""
        return self.samples >= _ENOUGH


class _Sample(NamedTuple):
    """Some numbers of the parameters in one place, before a step: a row for each parameter."""

    parameters: list[Tensor]
    places: list[Tensor]
    values: Tensor
    driven: Tensor  # those that a finite gradient other than zero would move
    sizes: Tensor  # [2, rows], for how many each of them stands: if it is float32 or wider, and if it is not


@final
class Movement:
    """Counts how many numbers did not move at all, among those whose gradient was not zero.

    In one step of 64, 64 numbers of each parameter are compared before and after, and stand for all of it; at the
    other steps nothing is done. Which of the 64 it is changes from one time to the next, so that it is not the same of
    each task. Counts stay on the device until they are asked for.

    Attributes:
        warned: what users were warned of.

    Example:
        >>> movement, p = Movement(), torch.ones(4, dtype=torch.bfloat16)
        >>> for _ in range(128):
        ...     if movement.due:
        ...         movement.before([(p, torch.ones(4), 0.1)])
        ...     p[:1] -= 0.0625  # one number moves
        ...     p[1:] -= 1e-4  # these round to where they were
        ...     movement.after()
        >>> of_all, of_coarse = movement.counts()
        >>> of_all.share, of_all.samples
        (0.75, 2.0)
    """

    def __init__(self) -> None:
        self.warned = Warned()
        self._steps = 0  # of all tasks
        self._next = _FIRST
        self._under_way: dict[_Place, _Sample] = {}
        # Of each place, for parameters of float32 or wider and for others: driven, still and samples, [3, 2].
        self._counts: dict[_Place, Tensor] = {}

    @property
    def steps(self) -> int:
        """How many steps it has seen, of all tasks."""
        return self._steps

    @property
    def due(self) -> bool:
        """Whether the next step is one to look at."""
        return self._steps == self._next

    def before(self, rows: Iterable[Row]) -> None:
        """Note where numbers are, before a step to look at.

        Args:
            rows: what the step is to move; parameters at rate zero are left out.
        """
        self._under_way = {}  # a step that raised has no after
        self._look(rows)

    def after(self, skipped: Tensor | None = None) -> None:
        """Count the step, and what did not move if it was one to look at.

        Args:
            skipped: a GradScaler's ``found_inf``, nonzero where the optimizer skipped the step; None without one.
        """
        if self._under_way:
            self._look_again(skipped)
        if self.due:
            turn = self._steps // EVERY + 1
            self._next = turn * EVERY + (_FIRST + turn * _APART) % EVERY
        self._steps += 1

    @torch.no_grad()
    def _look(self, rows: Iterable[Row]) -> None:
        turn = self._steps // EVERY
        placed: dict[_Place, list[tuple[Tensor, Tensor, Tensor, float, float | Tensor | None]]] = {}
        spread: dict[torch.device, Tensor] = {}
        of_size: dict[tuple[torch.device, int], Tensor] = {}
        for whole_parameter, whole_gradient, rate in rows:
            if whole_gradient is None or _is_known_zero(rate):
                continue
            parameter, gradient = local(whole_parameter), local(whole_gradient)
            count, device = parameter.numel(), parameter.device
            place = device, _mesh(whole_parameter)
            if place not in self._counts:  # also where this process has no part, as others will sum over all
                self._counts[place] = torch.zeros(3, 2, device=device)
            if not count:
                continue
            if device not in spread:
                spread[device] = _spread(turn, device)
            if (device, count) not in of_size:
                of_size[device, count] = _places(count, spread[device])
            size = count / NUMBERS / _copies(whole_parameter)  # for so many numbers one stands
            placed.setdefault(place, []).append((parameter, gradient, of_size[device, count], size, rate))
        for place, found in placed.items():
            self._under_way[place] = _sample(*([*column] for column in zip(*found, strict=True)))

    @torch.no_grad()
    def _look_again(self, skipped: Tensor | None) -> None:
        for place, sample in self._under_way.items():
            still = sample.driven & (_values(sample.parameters, sample.places) == sample.values)
            driven, still = ((of_each.sum(dim=1) * sample.sizes).sum(dim=1) for of_each in (sample.driven, still))
            counts = torch.stack([driven, still, (driven > 0).to(driven)])
            if skipped is not None:
                counts = counts * (skipped.reshape(()) == 0).to(counts)
            self._counts[place] += counts
        self._under_way = {}

    def end_task(self) -> None:
        """Begin to count anew; what was too little to judge by is kept, as in a stream of short tasks.

        Where parameters are sharded, every process must call this.
        """
        self._under_way = {}
        self.warned.end_task()
        of_all, _ = self.counts()
        if of_all.enough:
            for counts in self._counts.values():
                counts.zero_()

    @torch.no_grad()
    def counts(self) -> tuple[Counts, Counts]:
        """Return what was counted of all parameters, and of those with fewer digits than float32; reads the device.

        Where parameters are sharded, it is of all their parts: every process must call this.
        """
        found = [_of_all_processes(counts, mesh).tolist() for (_, mesh), counts in self._counts.items()]
        of_all, coarse = (Counts(*(_total(found, kinds, row) for row in range(3))) for kinds in ((0, 1), (1,)))
        return of_all, coarse


def _sample(
    parameters: list[Tensor],
    gradients: list[Tensor],
    places: list[Tensor],
    sizes: list[float],
    rates: list[float | Tensor | None],
) -> _Sample:
    device, gradient = parameters[0].device, _values(gradients, places)
    driven = (gradient != 0) & gradient.isfinite()
    for row, rate in zip(driven, rates, strict=True):
        if isinstance(rate, Tensor) and not rate.is_cpu:
            row &= rate.reshape(()).to(device, non_blocking=True) != 0
    coarse = [parameter.dtype.itemsize < 4 for parameter in parameters]
    split = [[size * (few is kind) for few, size in zip(coarse, sizes, strict=True)] for kind in (False, True)]
    values = _values(parameters, places)
    return _Sample(parameters, places, values, driven, torch.tensor(split).to(device, non_blocking=True))


def _is_known_zero(rate: float | Tensor | None) -> bool:
    """Return whether a rate is zero, as far as that can be told without a device."""
    if rate is None or (isinstance(rate, Tensor) and not rate.is_cpu):
        return False
    return float(rate) == 0


def _mesh(parameter: Tensor) -> Any:
    sharded: Any = parameter
    return sharded.device_mesh if is_sharded(parameter) else None


def _copies(parameter: Tensor) -> int:
    """Return how many processes hold the same part of a parameter."""
    if not is_sharded(parameter):
        return 1
    sharded: Any = parameter
    return math.prod(
        sharded.device_mesh.size(dimension) if placement.is_replicate() else 1
        for dimension, placement in enumerate(sharded.placements)
    )


def _of_all_processes(counts: Tensor, mesh: Any) -> Tensor:
    if mesh is None:
        return counts
    numbers, samples = counts[:2].clone(), counts[2:].clone()
    for group in mesh.get_all_groups():
        dist.all_reduce(numbers, group=group)
        dist.all_reduce(samples, dist.ReduceOp.MAX, group=group)
    return torch.cat([numbers, samples])


def _total(found: list[list[list[float]]], kinds: tuple[int, ...], row: int) -> float:
    numbers = [counts[row][kind] for counts in found for kind in kinds]
    return max(numbers, default=0.0) if row == 2 else sum(numbers)


def _spread(turn: int, device: torch.device) -> Tensor:
    """Return where to look, evenly spread, in units of 2^-20 of a 64th of a parameter.

    In each 64th it is another place, by the squares' multiples of the golden ratio: at even distances one might fall on
    the same column of a matrix again and again, and see a pixel that is always black.
    """
    parts = torch.arange(NUMBERS, device=device)
    turns = parts + turn % 1024 * NUMBERS
    golden = round((5**0.5 - 1) / 2 * 2**_BITS)
    within = turns * turns * golden % 2**_BITS
    spread: Tensor = parts * 2**_BITS + within
    return spread


def _places(count: int, spread: Tensor) -> Tensor:
    return (spread * count) >> (_BITS + NUMBERS.bit_length() - 1)


def _values(tensors: list[Tensor], places: list[Tensor]) -> Tensor:
    return torch.stack([tensor.take(where) for tensor, where in zip(tensors, places, strict=True)])
