"""What figure 5's correlations between tasks are made of, units or synapses: `python benchmarks/shared_synapses.py`.

Permuted MNIST in the network of the paper, without synapses, with c = 0.1 and with c = 1, but with 5 epochs of each
task in place of 20. Of each task's path integral, P[i, j] for the weight from unit j to unit i, these are compared
between tasks:

path       itself, by Pearson's correlation, as in figure 5
ranks      the same by Spearman's, which large numbers do not dominate
importance P over the squared distance that the weight went, plus xi: what is added to omega, but for the relu
receiving  its sums over j, one for each unit i
sending    its sums over i, one for each unit j
units      both multiplied: P if its synapses differed by their two units alone
synapses   what is left of P when that is taken off

How alike the paths of one task are that is learnt twice, in two orders, is what could be expected at most. Shares of
variance and covariance tell how much of a path, and of what two have in common, is that of units.

Paths are kept in a folder, and a strength that is whole there is not trained again. Writes
results/shared-synapses.json.

Expect 16 minutes a strength on an idle core, and in the second layer correlations of units that are as high as those
of the paths, and of synapses that are near zero, with and without consolidation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from result_file import result_file
from scipy.stats import rankdata
from torch import Tensor

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.experiments.paths import correlation
from synaptic_intelligence.train import evaluate, train_epoch

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, EPOCHS, SEED = EXPERIMENTS["permuted-mnist"], 5, 0
STRENGTHS = (0.0, 0.1, 1.0)
NAMES = [name for name, p in EXPERIMENT.network(torch.Generator()).named_parameters() if p.ndim > 1]

Kept = dict[str, dict[str, Tensor]]
"""Path and distance of each weight matrix in one task."""


def learn(c: float, folder: Path, count: int, order_seed: int, name: str) -> None:
    """Learn so many tasks, and keep the paths and distances of each."""
    settings = EXPERIMENT.paper
    tasks = EXPERIMENT.stream(None, count)
    model = EXPERIMENT.network(torch.Generator().manual_seed(2 * SEED))
    optimizer = adam(model.parameters(), lr=settings.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=settings.xi)
    order = torch.Generator().manual_seed(order_seed)
    for number, task in enumerate(tasks):
        for _ in range(EPOCHS):
            train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=False)
        move = {key: p.detach() - synapses.anchor[key] for key, p in model.named_parameters()}
        path = synapses.consolidate()
        with replacing(folder / f"{name}-{number}.pt") as temporary:
            torch.save({"path": {key: p.clone() for key, p in path.items()}, "move": move}, temporary)
        print(f"c = {c:g}, task {number + 1}: {evaluate(model, task, multi_head=False):.3f}", flush=True)


def by_units(path: Tensor) -> Tensor:
    """Return the matrix of the same sums over rows and over columns whose entries are a product of both.

    >>> by_units(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    tensor([[1., 2.],
            [2., 4.]])
    """
    return torch.outer(path.sum(1), path.sum(0)) / path.sum()


READINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "path": lambda path, move: path,
    "ranks": lambda path, move: torch.from_numpy(rankdata(path.numpy().ravel())),
    "importance": lambda path, move: path / (move**2 + EXPERIMENT.paper.xi),
    "receiving": lambda path, move: path.sum(1),
    "sending": lambda path, move: path.sum(0),
    "units": lambda path, move: by_units(path),
    "synapses": lambda path, move: path - by_units(path),
}


def shares(paths: list[Tensor]) -> dict[str, float]:
    """Return how much of the paths' variance, and of the covariance of all pairs, is that of their units.

    The covariance is that of the units with each other, of what is left with each other, and of one with the other.
    """
    units = [by_units(path) for path in paths]
    parts = [[part - part.mean() for part in (unit, path - unit)] for unit, path in zip(units, paths, strict=True)]
    variance = sum(float(unit.square().sum()) for unit, _ in parts)
    whole = sum(float((unit + rest).square().sum()) for unit, rest in parts)
    found = dict.fromkeys(("units", "synapses", "between"), 0.0)
    for i, (unit, rest) in enumerate(parts):
        for other_unit, other_rest in parts[:i]:
            found["units"] += float((unit * other_unit).sum())
            found["synapses"] += float((rest * other_rest).sum())
            found["between"] += float((unit * other_rest).sum() + (rest * other_unit).sum())
    total = sum(found.values())
    of_covariance = {f"covariance, {name}": value / total for name, value in found.items()}
    return {"variance, units": variance / whole, **of_covariance}


def compare(folder: Path, c: float) -> tuple[dict[str, dict[str, list[list[float]]]], dict[str, dict[str, float]]]:
    """Return for each weight matrix and reading the correlations of all pairs of tasks, ``[i][j]`` for j < i.

    And for each weight matrix what :func:`shares` gives.
    """
    tasks = EXPERIMENT.paper.tasks
    found: dict[str, dict[str, list[list[float]]]] = {}
    of: dict[str, dict[str, float]] = {}
    for name in NAMES:
        pairs = [_read(folder / f"c{c:g}-{task}.pt", name) for task in range(tasks)]
        found[name] = {}
        for reading, read in READINGS.items():
            values = [read(*pair) for pair in pairs]
            found[name][reading] = [[correlation(values[i], values[j]) for j in range(i)] for i in range(tasks)]
            print(f"c = {c:g}, {name}, {reading}: {found[name][reading][-1]}", flush=True)
        of[name] = shares([path for path, _ in pairs])
        print(f"c = {c:g}, {name}: {of[name]}", flush=True)
    return found, of


def again(folder: Path) -> dict[str, dict[str, float]]:
    """Return how alike the paths are if the first task is learnt twice, from the same weights, in two orders."""
    found: dict[str, dict[str, float]] = {}
    for name in NAMES:
        one, other = (_read(folder / f"{first}-0.pt", name) for first in ("c0", "again"))
        found[name] = {reading: correlation(read(*one), read(*other)) for reading, read in READINGS.items()}
        print(f"again, {name}: {found[name]}", flush=True)
    return found


def _read(file: Path, name: str) -> tuple[Tensor, Tensor]:
    kept: Kept = torch.load(file, weights_only=True)
    return kept["path"][name].double(), kept["move"][name].double()


def main() -> None:
    """Learn what is not there yet, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--paths", type=Path, default=ROOT / "runs" / f"shared-synapses-{EPOCHS}-{SEED}", help="where paths are kept"
    )
    parser.add_argument("--out", type=result_file, default=ROOT / "results" / "shared-synapses.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.paths.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for c in STRENGTHS:
        if not (given.paths / f"c{c:g}-{EXPERIMENT.paper.tasks - 1}.pt").exists():
            learn(c, given.paths, EXPERIMENT.paper.tasks, 2 * SEED + 1, f"c{c:g}")
        correlations, of_units = compare(given.paths, c)
        runs.append({"c": c, "correlations": correlations, "shares": of_units})
    if not (given.paths / "again-0.pt").exists():
        learn(0.0, given.paths, 1, 2 * SEED + 3, "again")
    found = {
        "command": "python benchmarks/shared_synapses.py",
        "environment": describe_environment("cpu", 1, 1),
        "epochs": EPOCHS,
        "seed": SEED,
        "xi": EXPERIMENT.paper.xi,
        "runs": runs,
        "again": again(given.paths),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
