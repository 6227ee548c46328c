"""Two synapses and two tasks: what the path, omega and the surrogate loss are, to look at (figure 2 of the paper).

    synaptic run toy

Each task is a valley, steep in one direction and nearly flat in the other; where the valleys cross, both tasks are
solved. Expect that without synapses the second task is learnt by leaving the first task's valley, and that with them
the second task is learnt along the direction that the first one leaves free.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.func import grad

from synaptic_intelligence.consolidator import SynapticIntelligence
from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.study import Study
from synaptic_intelligence.functional import consolidated_omega, surrogate_gradient, surrogate_loss

_POINTS = 200  # at most, of a trajectory
_NO_XI = 1e-18  # theta^2; so small that it changes no digit


@final
@dataclass(frozen=True)
class Toy:
    """The settings: how the two tasks are learnt, by plain gradient descent.

    Args:
        seeds: 1; nothing is random, so more of them would be the same again.
        c: strength of the synapses, without unit.
        xi: damping, in theta^2.
        lr: learning rate, in theta^2 / loss; small, since the conditions are of infinitely small steps.
        steps: of each task.
    """

    seeds: int = 1
    c: float = 1.0
    xi: float = 1e-3
    lr: float = 0.01
    steps: int = 15000


@final
@dataclass(frozen=True)
class Valley:
    """A smooth loss of two parameters with one minimum, steep across the valley and nearly flat along it.

    Args:
        minimum: where the loss is zero, in theta.
        across: direction in which it is steep, degrees from the axis of the first parameter to that of the second.
        steep, flat: curvature at the minimum, across the valley and along it, in loss / theta^2.
        depth: how much loss it takes until the walls become less steep.

    Example:
        >>> Valley(minimum=(0.0, 0.0), across=90.0, steep=1.0, flat=0.1, depth=0.5).flat
        0.1
    """

    minimum: tuple[float, float]
    across: float
    steep: float
    flat: float
    depth: float


START = (-1.9, 2.1)
TASKS = (
    Valley(minimum=(0.17, 0.98), across=-10.0, steep=1.0, flat=0.03, depth=0.5),
    Valley(minimum=(1.87, 0.26), across=98.0, steep=1.0, flat=0.03, depth=0.5),
)


def valley_loss(theta: Tensor, valley: Valley) -> Tensor:
    """Return the loss of a task, ``depth log(1 + q / (2 depth))``, q being its quadratic form.

    Args:
        theta: ``[..., 2]``.
        valley: the task.

    Returns:
        ``[...]``, in units of the loss.

    Example:
        >>> valley = Valley(minimum=(0.0, 0.0), across=90.0, steep=1.0, flat=0.1, depth=0.5)
        >>> valley_loss(torch.tensor([[0.1, 0.0], [0.0, 0.1]]), valley)  # along the valley, and across it
        tensor([0.0005, 0.0050])
    """
    x, y = (theta - torch.tensor(valley.minimum, dtype=theta.dtype)).unbind(-1)
    cos, sin = math.cos(math.radians(valley.across)), math.sin(math.radians(valley.across))
    form = valley.steep * (cos * x + sin * y).square() + valley.flat * (cos * y - sin * x).square()
    return valley.depth * torch.log1p(form / (2 * valley.depth))


def crossing(a: Valley, b: Valley) -> tuple[float, float]:
    """Return the point where the floors of two valleys cross, in theta.

    Example:
        >>> x, y = crossing(Valley((0.0, 1.0), 0.0, 1.0, 0.1, 0.5), Valley((1.0, 0.0), 90.0, 1.0, 0.1, 0.5))
        >>> abs(x) < 1e-12, abs(y) < 1e-12
        (True, True)
    """
    angles = torch.tensor([a.across, b.across], dtype=torch.float64).deg2rad()
    across = torch.stack([angles.cos(), angles.sin()], dim=1)
    minima = torch.tensor([a.minimum, b.minimum], dtype=torch.float64)
    x, y = torch.linalg.solve(across, (across * minima).sum(1)).tolist()
    return x, y


def compute(settings: Toy, data_dir: Path | None, listen: Callable[[str], None]) -> Mapping[str, JSON]:
    """Learn task 1, consolidate, learn task 2, without synapses and with them; return trajectories and losses.

    The two ways of learning are two parameters of one optimizer, in groups of different strength. ``conditions`` are
    those that fix the surrogate loss: it drops by as much as the loss did, over the same movement, to a minimum where
    learning ended.
    """
    start = torch.tensor(START, dtype=torch.float64)
    thetas = {name: torch.nn.Parameter(start.clone()) for name in ("without", "with")}
    groups = [{"params": [thetas["without"]], "c": 0.0}, {"params": [thetas["with"]], "c": settings.c}]
    optimizer = torch.optim.SGD(groups, lr=settings.lr)
    synapses = SynapticIntelligence(thetas.items(), optimizer, c=settings.c, xi=settings.xi)

    def learn(task: Valley) -> dict[str, Tensor]:
        places: dict[str, list[Tensor]] = {name: [theta.detach().clone()] for name, theta in thetas.items()}
        for _ in range(settings.steps):
            optimizer.zero_grad()
            torch.stack([valley_loss(theta, task) for theta in thetas.values()]).sum().backward()
            optimizer.step()
            for name, theta in thetas.items():
                places[name].append(theta.detach().clone())
        return {name: torch.stack(listed) for name, listed in places.items()}

    first = learn(TASKS[0])["with"]
    path, before = synapses.path["with"].clone(), synapses.anchor["with"].clone()
    synapses.consolidate()
    omega, anchor = synapses.omega["with"].clone(), synapses.anchor["with"].clone()
    listen("learnt task 1")
    second = learn(TASKS[1])
    listen("learnt task 2, without synapses and with them")
    both = torch.tensor(crossing(*TASKS), dtype=torch.float64)
    stages = {"start": start, "after task 1": first[-1], "both solved": both}
    ends = {name: places[-1] for name, places in second.items()}
    return {
        "tasks": [dataclasses.asdict(task) | {"minimum": list(task.minimum)} for task in TASKS],
        "first": {
            "trajectory": thinned(first),
            "path": path.tolist(),
            "omega": omega.tolist(),
            "anchor": anchor.tolist(),
        },
        "second": {name: thinned(places) for name, places in second.items()},
        "both_solved": both.tolist(),
        "losses": {
            name: [float(valley_loss(theta, task)) for task in TASKS] for name, theta in (stages | ends).items()
        },
        "conditions": _conditions(path, before, first, anchor),
    }


def _conditions(path: Tensor, before: Tensor, trajectory: Tensor, anchor: Tensor) -> dict[str, JSON]:
    """Compare loss and surrogate, with c = 1 and next to no xi, so that the paper's sum is exact.

    Source: Zenke et al. 2017, figure 2.
    """
    start, end = trajectory[0], trajectory[-1]
    omega = consolidated_omega(torch.zeros_like(path), path, anchor - before, xi=_NO_XI)
    drop = float(valley_loss(start, TASKS[0]) - valley_loss(end, TASKS[0]))
    total, surrogate = float(path.sum()), float(surrogate_loss(start, anchor, omega, c=1.0))
    slope = grad(lambda theta: valley_loss(theta, TASKS[0]))(end)
    surrogate_slope = surrogate_gradient(end, anchor, omega, c=1.0)
    return {
        "drop": {"loss": drop, "path": total, "surrogate": surrogate},
        "path_against_drop": total / drop - 1,
        "surrogate_against_path": surrogate / total - 1,
        "surrogate_against_drop": surrogate / drop - 1,
        "movement": {"theta": (end - start).tolist(), "anchor": (anchor - before).tolist()},
        "slope_at_end": {"loss": float(slope.norm()), "surrogate": float(surrogate_slope.norm())},
        "omega": omega.tolist(),
    }


def thinned(trajectory: Tensor) -> list[JSON]:
    """Return at most 200 points of a trajectory ``[n, 2]``, first and last among them, evenly along its way.

    Example:
        >>> len(thinned(torch.linspace(0, 1, 1001)[:, None].repeat(1, 2)))
        200
    """
    way = torch.cat([torch.zeros(1, dtype=trajectory.dtype), trajectory.diff(dim=0).norm(dim=1).cumsum(0)])
    chosen = torch.searchsorted(way, torch.linspace(0, 1, _POINTS, dtype=way.dtype) * way[-1])
    chosen[-1] = len(trajectory) - 1
    points: list[JSON] = trajectory[chosen.unique()].tolist()
    return points


TOY = Study(
    name="toy",
    title="Two synapses, two tasks",
    what="the surrogate loss of two synapses, to look at",
    source="figure 2",
    settings=Toy(),
    quick=Toy(lr=0.05, steps=2000),
    compute=compute,
    seeded=False,
)
