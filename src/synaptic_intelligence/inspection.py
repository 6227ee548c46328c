"""What an importance file holds, in figures that a reader can take in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from synaptic_intelligence.checkpoint import read_with_writer
from synaptic_intelligence.errors import printable
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.strength import Strength

_AT_ONCE = 1 << 20  # numbers that are in memory as float64 at the same time
_LEAST = -324  # the decade of the smallest float64
_EDGES = [float(f"1e{k}") for k in range(_LEAST + 1, 309)]
_DIGITS = 8  # binary digits after the first, by which sizes are told apart where the largest tenth is looked for


@final
@dataclass(frozen=True, slots=True)
class LayerImportance:
    """The importance of one parameter tensor.

    Attributes:
        name: of the parameter.
        shape: its shape.
        numbers: how many numbers it has.
        important: how many of them have an omega above zero.
        mean, median, largest: of omega, in loss / theta^2; of two middle ones, the median is the smaller; 0 where there
            are no numbers.
        share: its part of the sum of all omega in the file, from 0 to 1; 0 where that sum is zero.
    """

    name: str
    shape: tuple[int, ...]
    numbers: int
    important: int
    mean: float
    median: float
    largest: float
    share: float


@final
@dataclass(frozen=True, slots=True)
class ImportantNumber:
    """One number of a parameter: its place, and its omega in loss / theta^2."""

    name: str
    index: tuple[int, ...]
    omega: float


@final
@dataclass(frozen=True, slots=True)
class Inspection:
    """What an importance file holds; printed, it is a page of text.

    Attributes:
        estimator: name of the estimator.
        settings: its settings, such as ``xi``.
        c: strength, or one for each replicate.
        own_c: whether parameter groups had strengths of their own, which are not in the file.
        tasks: how many tasks were consolidated.
        steps: optimizer steps since; above zero, the file was saved in the middle of a task.
        origin: what filled the importance before the first task, in words; empty: nothing.
        writer: the versions that wrote it, as the file says.
        layers: each parameter tensor, in the model's order.
        zeros: how many numbers have an omega of zero.
        decades: how many have an omega from ``10**k`` to below ``10**(k + 1)``, by ``k``, without gaps.
        top: the numbers with the largest omega, the largest first.
        total: the sum of all omega, in loss / theta^2.
        effective: how many numbers of equal omega would be as concentrated, ``(sum omega)^2 / sum omega^2`` (the
            participation ratio); 0 where all are zero.
        tenth: the part of the sum that the largest tenth of the numbers hold (their count rounded up), right to one
            part in 256; 0 where all are zero.

    Example:
        >>> import tempfile, torch, synaptic_intelligence as si
        >>> p = torch.nn.Parameter(torch.zeros(3))
        >>> file = tempfile.mkdtemp() + "/importance.safetensors"
        >>> si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1).save(file)
        >>> found = si.inspect_importance(file)
        >>> found.estimator, found.tasks, found.numbers, found.zeros
        ('path_integral', 0, 3, 3)
    """

    estimator: str
    settings: Mapping[str, float | str]
    c: Strength
    own_c: bool
    tasks: int
    steps: int
    origin: str
    writer: str
    layers: tuple[LayerImportance, ...]
    zeros: int
    decades: Mapping[int, int]
    top: tuple[ImportantNumber, ...]
    total: float
    effective: float
    tenth: float

    @property
    def numbers(self) -> int:
        """How many numbers have synapses."""
        return sum(layer.numbers for layer in self.layers)

    def __str__(self) -> str:
        lengths = bars(self, 40)
        histogram = [[*cells, "#" * length] for cells, length in zip(histogram_cells(self), lengths, strict=True)]
        tables = [_aligned(layer_cells(self)), _aligned(histogram, left=(0, 2))]
        tables += [_aligned(top_cells(self))] if self.top else []
        return "\n".join([*header_lines(self), *(line for table in tables for line in ("", *table))])


def inspect_importance(path: str | Path, *, top: int = 10) -> Inspection:
    """Return what an importance file holds: by parameter, by size, and which numbers matter most.

    Besides the file, at most one parameter's omega is copied.

    Args:
        path: of the file.
        top: how many of the most important numbers to name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or foreign, or ``top`` is no whole number from 0 up.

    Example:
        >>> import tempfile, torch, synaptic_intelligence as si
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([p], lr=0.5)
        >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=1.0)
        >>> p.grad = torch.tensor([0.0, 2.0])
        >>> optimizer.step()
        >>> path = synapses.consolidate()
        >>> synapses.save(file := tempfile.mkdtemp() + "/importance.safetensors")
        >>> si.inspect_importance(file).top
        (ImportantNumber(name='w', index=(1,), omega=1.0),)
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 0:
        raise ValueError(f"top must be a whole number from 0 up, not {top!r}")
    return inspected(*read_with_writer(Path(path)), top)


def inspected(file: ImportanceFile, writer: str, top: int) -> Inspection:
    """Return what :func:`inspect_importance` does of a file that is read already.

    Example:
        >>> one = {"w": torch.tensor([0.0, 0.02, 0.03])}
        >>> dict(inspected(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 0, one, one, {}), "me", 1).decades)
        {-2: 2}
    """
    largest = {name: abs(float(omega.max())) if omega.numel() else 0.0 for name, omega in file.omega.items()}
    tally = _Tally(unit=max(largest.values(), default=0.0) or 1.0)
    layers: list[LayerImportance] = []
    best: list[tuple[float, int, str, int]] = []
    for order, (name, omega) in enumerate(file.omega.items()):
        important, total = tally.add(omega)
        middle = abs(float(omega.flatten().median())) if omega.numel() else 0.0
        mean = tally.unit * (total / max(omega.numel(), 1))
        shape, count = tuple(omega.shape), omega.numel()
        layers.append(LayerImportance(name, shape, count, important, mean, middle, largest[name], share=total))
        found = omega.flatten().topk(min(top, important))
        best += [(-value, order, name, place) for value, place in zip(*map(Tensor.tolist, found), strict=True)]
    return Inspection(
        estimator=file.estimator,
        origin=file.origin,
        settings=dict(file.settings),
        c=file.c,
        own_c=file.own_c,
        tasks=file.tasks,
        steps=file.steps,
        writer=writer,
        layers=tuple(replace(layer, share=layer.share / (tally.total or 1.0)) for layer in layers),
        zeros=sum(layer.numbers - layer.important for layer in layers),
        decades=tally.by_decade(),
        top=tuple(
            ImportantNumber(name, _index(place, tuple(file.omega[name].shape)), -value)
            for value, _, name, place in sorted(best)[:top]
        ),
        total=tally.unit * tally.total,
        effective=tally.total**2 / (tally.squares or 1.0),
        tenth=tally.held_by_tenth(),
    )


@final
class _Tally:
    """Sums over all numbers, in units of the largest, whose squares could be too large for a float64."""

    def __init__(self, unit: float) -> None:
        self.unit, self.total, self.squares = unit, 0.0, 0.0
        self._edges = torch.tensor(_EDGES, dtype=torch.float64, device="cpu")  # where files are read to
        self._decades = torch.zeros(len(_EDGES) + 1, dtype=torch.int64, device="cpu")
        # By exponent and the first binary digits: numbers of one cell differ by no more than one part in 256.
        self._count = torch.zeros(1 << (11 + _DIGITS), dtype=torch.int64, device="cpu")
        self._sum = torch.zeros_like(self._count, dtype=torch.float64)

    def add(self, omega: Tensor) -> tuple[int, float]:
        """Count a tensor in; return how many of its numbers are above zero, and their sum in units."""
        important, total = 0, 0.0
        for part in _parts(omega):
            scaled = part / self.unit
            above = part[part > 0]
            important += len(above)
            total += float(scaled.sum())
            self.squares += float(scaled.square().sum())
            self._decades += torch.bucketize(above, self._edges, right=True).bincount(minlength=len(self._decades))
            cell = part.view(torch.int64) >> (52 - _DIGITS)
            self._count.scatter_add_(0, cell, torch.ones_like(cell))
            self._sum.scatter_add_(0, cell, scaled)
        self.total += total
        return important, total

    def by_decade(self) -> dict[int, int]:
        """Return how many numbers are in each decade, from the first to the last that has any."""
        some = self._decades.nonzero().flatten().tolist()
        return {k + _LEAST: int(self._decades[k]) for k in range(some[0], some[-1] + 1)} if some else {}

    def held_by_tenth(self) -> float:
        """Return the part of the sum that the largest tenth of the numbers hold."""
        counts, sums = self._count.flip(0), self._sum.flip(0)
        wanted = -(-int(counts.sum()) // 10)
        # All of each cell before the one in which the tenth ends, and of that one as many as are wanted still.
        taken = (wanted - (counts.cumsum(0) - counts)).clamp(min=0).minimum(counts)
        return float((sums * (taken.to(torch.float64) / counts.clamp(min=1))).sum()) / (self.total or 1.0)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    for part in tensor.flatten().split(_AT_ONCE):
        yield part.to(torch.float64) + 0.0  # which makes a negative zero a zero, whose bits are none


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the place in a flattened tensor as an index."""
    below = [*accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1)][::-1] if shape else []
    return tuple(place // size % length for size, length in zip(below, shape, strict=True))


# As text: lists of rows of cells, the first of which names the columns.


def header_lines(found: Inspection) -> list[str]:
    """Return what holds for the file as a whole, as lines of text.

    Example:
        >>> one = {"w": torch.tensor([0.0, 1.0])}
        >>> file = ImportanceFile("path_integral", {"xi": 0.1}, 0.5, 1, 0, one, one, {})
        >>> print("\\n".join(header_lines(inspected(file, "me", 1))))
        path_integral, xi = 0.1; c = 0.5
        1 task consolidated; written by me
        2 numbers in 1 parameter, 50.0% of them with omega > 0; sum of omega 1
        as concentrated as 1 equal number; the largest tenth holds 100.0% of the sum
    """
    c = found.c if isinstance(found.c, tuple) else (found.c,)
    strengths = f"c = {c[0]:g}" if len(c) == 1 else f"c from {min(c):g} to {max(c):g}, for {len(c)} replicates"
    strengths += ", but for parameter groups with a c of their own" * found.own_c
    settings = [f"{printable(str(name))} = {printable(str(value))}" for name, value in found.settings.items()]
    middle = f", and {_counted(found.steps, 'step')} of the next" if found.steps else ""
    important = (found.numbers - found.zeros) / max(found.numbers, 1)
    lines = [
        f"{', '.join([printable(found.estimator), *settings])}; {strengths}",
        f"{_counted(found.tasks, 'task')} consolidated{middle}; written by {printable(found.writer)}",
        *([f"begun from {printable(found.origin)}"] if found.origin else []),
        f"{_counted(found.numbers, 'number')} in {_counted(len(found.layers), 'parameter')}, {important:.1%} of them "
        f"with omega > 0; sum of omega {found.total:.3g}",
    ]
    if found.total:
        equal = _counted(round(found.effective), "equal number")
        lines.append(f"as concentrated as {equal}; the largest tenth holds {found.tenth:.1%} of the sum")
    return lines


def layer_cells(found: Inspection) -> list[list[str]]:
    """Return the table of the parameters."""
    return [
        ["parameter", "shape", "omega > 0", "mean", "median", "largest", "share"],
        *(
            [
                printable(layer.name),
                "x".join(map(str, layer.shape)) or "scalar",
                f"{layer.important / max(layer.numbers, 1):.1%}",
                *(f"{value:.3g}" for value in (layer.mean, layer.median, layer.largest)),
                f"{layer.share:.1%}",
            ]
            for layer in found.layers
        ),
    ]


def histogram_cells(found: Inspection) -> list[list[str]]:
    """Return how many numbers there are of each size."""
    decades = [[f"{k} to {k + 1}", str(count)] for k, count in found.decades.items()]
    return [["log10 omega", "numbers"], ["omega = 0", str(found.zeros)], *decades]


def top_cells(found: Inspection) -> list[list[str]]:
    """Return the table of the most important numbers."""
    rows = [[printable(each.name), str(list(each.index)), f"{each.omega:.3g}"] for each in found.top]
    return [["most important", "index", "omega"], *rows]


def bars(found: Inspection, width: int) -> list[int]:
    """Return the length of a bar for each row of the histogram, the longest as long as ``width``; none for zeros."""
    most = max(found.decades.values(), default=1)
    return [0, 0, *(math.ceil(width * count / most) for count in found.decades.values())]


def _counted(count: int, what: str) -> str:
    return f"{printable(f'{count:,}')} {what}{'s'[: count != 1]}"


def _aligned(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Return the rows as lines, with columns below each other: some to the left, and figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        places = enumerate(zip(row, widths, strict=True))
        cells = [cell.ljust(width) if place in left else cell.rjust(width) for place, (cell, width) in places]
        lines.append("  ".join(cells).rstrip())
    return lines
