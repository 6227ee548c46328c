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

Kept = dict[str, dict[str, Tensor]]
"""Path and distance of each weight matrix in one task."""


def learn(c: float, folder: Path) -> None:
    """Learn all tasks, and keep the paths and distances of each."""
    settings = EXPERIMENT.paper
    tasks = EXPERIMENT.stream(None, settings.tasks)
    model = EXPERIMENT.network(torch.Generator().manual_seed(2 * SEED))
    optimizer = adam(model.parameters(), lr=settings.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=settings.xi)
    order = torch.Generator().manual_seed(2 * SEED + 1)
    for number, task in enumerate(tasks):
        for _ in range(EPOCHS):
            train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=False)
        move = {name: p.detach() - synapses.anchor[name] for name, p in model.named_parameters()}
        path = synapses.consolidate()
        with replacing(_file(folder, c, number)) as temporary:
            torch.save({"path": {name: p.clone() for name, p in path.items()}, "move": move}, temporary)
        print(f"c = {c:g}, task {number + 1}: {evaluate(model, task, multi_head=False):.3f}", flush=True)


def _file(folder: Path, c: float, task: int) -> Path:
    return folder / f"c{c:g}-{task}.pt"


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


def compare(folder: Path, c: float) -> dict[str, dict[str, list[list[float]]]]:
    """Return for each weight matrix and reading the correlations of all pairs of tasks, ``[i][j]`` for j < i."""
    tasks = EXPERIMENT.paper.tasks
    names = [name for name, p in EXPERIMENT.network(torch.Generator()).named_parameters() if p.ndim > 1]
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name in names:
        kept: list[Kept] = [torch.load(_file(folder, c, task), weights_only=True) for task in range(tasks)]
        pairs = [(one["path"][name].double(), one["move"][name].double()) for one in kept]
        found[name] = {}
        for reading, read in READINGS.items():
            values = [read(*pair) for pair in pairs]
            found[name][reading] = [[correlation(values[i], values[j]) for j in range(i)] for i in range(tasks)]
            print(f"c = {c:g}, {name}, {reading}: {found[name][reading][-1]}", flush=True)
    return found


def main() -> None:
    """Learn what is not there yet, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--paths", type=Path, default=ROOT / "runs" / f"shared-synapses-{EPOCHS}-{SEED}", help="where paths are kept"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "shared-synapses.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.paths.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for c in STRENGTHS:
        if not _file(given.paths, c, EXPERIMENT.paper.tasks - 1).exists():
            learn(c, given.paths)
        runs.append({"c": c, "correlations": compare(given.paths, c)})
    found = {
        "command": "python benchmarks/shared_synapses.py",
        "environment": describe_environment("cpu", 1, 1),
        "epochs": EPOCHS,
        "seed": SEED,
        "xi": EXPERIMENT.paper.xi,
        "runs": runs,
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
