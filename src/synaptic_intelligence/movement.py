"""How many numbers a step leaves exactly where they were, from a sample of them at few steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, final

import torch
from torch import Tensor

from synaptic_intelligence.sharding import local

EVERY = 64
"""Steps from one sample to the next."""

NUMBERS = 64
"""How many numbers are looked at in each parameter; those of smaller ones several times."""

_ENOUGH = 2  # samples: the first step alone may be one of a warm-up, at rate zero
_BITS = 20  # by which places between two numbers of a sample are told apart


class _Sample(NamedTuple):
    """Some numbers of the parameters on one device, before a step: a row for each parameter."""

    parameters: list[Tensor]
    places: list[Tensor]
    values: Tensor
    driven: Tensor  # those that a finite gradient other than zero would move
    sizes: Tensor  # for how many numbers each row stands


@final
class Movement:
    """Counts how many numbers did not move at all, among those whose gradient was not zero.

    Every 64th step, the first one included, 64 numbers of each parameter are compared before and after, and stand for
    all of it; at the other steps nothing is done. Counts stay on the device until they are asked for. Of sharded
    parameters the part counts that lies in this process.

    Example:
        >>> movement, p = Movement(), torch.ones(4, dtype=torch.bfloat16)
        >>> movement.before(0, [(p, torch.ones(4))])
        >>> p[:1] -= 0.5  # one number moves
        >>> p[1:] -= 1e-4  # these round to where they were
        >>> movement.after()
        >>> movement.still_share()
        0.75
    """

    def __init__(self) -> None:
        self._samples = 0
        self._under_way: dict[torch.device, _Sample] = {}
        self._counts: dict[torch.device, Tensor] = {}  # of each: how many numbers were driven, and were still

    def before(self, step_count: int, rows: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Note where numbers are, if this is a step to look at.

        Args:
            step_count: how many steps were taken before this one.
            rows: each parameter with its gradient of the task loss, None for none; only walked over at such a step.
        """
        self._under_way = {}  # a step that raised has no after
        if step_count % EVERY == 0:
            self._look(step_count // EVERY, rows)

    def after(self, skipped: Tensor | None = None) -> None:
        """Count what did not move, if the step was one to look at.

        Args:
            skipped: a GradScaler's ``found_inf``, nonzero where the optimizer skipped the step; None without one.
        """
        if self._under_way:
            self._look_again(skipped)

    @torch.no_grad()
    def _look(self, turn: int, rows: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        placed: dict[torch.device, list[tuple[Tensor, Tensor, Tensor]]] = {}
        spread: dict[torch.device, Tensor] = {}
        of_size: dict[tuple[torch.device, int], Tensor] = {}
        for whole_parameter, whole_gradient in rows:
            if whole_gradient is None:
                continue
            parameter, gradient = local(whole_parameter), local(whole_gradient)
            count, device = parameter.numel(), parameter.device
            if not count:
                continue
            if device not in spread:
                spread[device] = _spread(turn, device)
            if (device, count) not in of_size:
                of_size[device, count] = _places(count, spread[device])
            placed.setdefault(device, []).append((parameter, gradient, of_size[device, count]))
        for device, found in placed.items():
            parameters, gradients, places = ([*column] for column in zip(*found, strict=True))
            gradient = _values(gradients, places)
            driven = (gradient != 0) & gradient.isfinite()
            sizes = torch.tensor([float(p.numel()) for p in parameters]).to(device, non_blocking=True)
            self._under_way[device] = _Sample(parameters, places, _values(parameters, places), driven, sizes)

    @torch.no_grad()
    def _look_again(self, skipped: Tensor | None) -> None:
        for device, sample in self._under_way.items():
            still = sample.driven & (_values(sample.parameters, sample.places) == sample.values)
            counts = torch.stack([(of_each.sum(dim=1) * sample.sizes).sum() for of_each in (sample.driven, still)])
            if skipped is not None:
                counts = counts * (skipped.reshape(()) == 0).to(counts)
            self._counts[device] = self._counts[device] + counts if device in self._counts else counts
        self._under_way = {}
        self._samples += 1

    def end_task(self) -> None:
        """Begin to count anew; what was too little to judge by is kept, as in a stream of short tasks."""
        self._under_way = {}
        if self._samples >= _ENOUGH:
            self._samples = 0
            for counts in self._counts.values():
                counts.zero_()

    @property
    def enough(self) -> bool:
        """Whether at least two steps were looked at; the first alone may be one of a warm-up, at rate zero."""
        return self._samples >= _ENOUGH

    def still_share(self) -> float | None:
        """Return the share of numbers that did not move, 0 to 1; None if none was looked at; reads from the device."""
        driven, still = (
            sum(column) for column in zip((0, 0), *(c.tolist() for c in self._counts.values()), strict=True)
        )
        return still / driven if driven else None


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
