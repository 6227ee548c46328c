"""Digits 5 to 9 after a checkpoint of digits 0 to 4 that never had synapses: `python benchmarks/bootstrap.py`.

The network 784-256-256 with a head of five outputs learns MNIST's digits 0 to 4 by plain Adam. Then its body learns 5
to 9 under a new head, held by the importance that each estimator takes from a few images of the old digits. The
strength of each is the one of its grid with which held-out training images, old and new, are classified best, on
average over the seeds. Writes results/bootstrap.json (three minutes on one core).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from result_file import result_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.networks import glorot_, multilayer_perceptron
from synaptic_intelligence.tasks import Task, split_by_class
from synaptic_intelligence.train import as_input, evaluate, train_epoch

ROOT = Path(__file__).resolve().parent.parent
BATCH, LR, XI = 64, 1e-3, 1e-3

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """How much is trained on and looked at; all images are of each half of the digits.

    Args:
        seeds: repetitions.
        images, held_out: training images that are learnt, and others for the choice of c.
        reference: images of the old digits from which importance is estimated.
        old_epochs, new_epochs: passes over the training images.
    """

    seeds: int = 3
    images: int = 15_000
    held_out: int = 4000
    reference: int = 1000
    old_epochs: int = 3
    new_epochs: int = 2


@dataclass(frozen=True)
class Way:
    """A way to fill the importance of a checkpoint, and the strengths to choose from."""

    name: str
    make: Callable[[nn.Module], si.Importance] | None
    strengths: tuple[float, ...]


WAYS = (
    Way("none", None, (0.0,)),
    Way("Uniform", lambda model: si.Uniform(), (0.001, 0.003, 0.01, 0.03, 0.1)),
    Way(
        "ShortPath",
        lambda model: si.ShortPath(model, cross_entropy, lr=0.1, xi=XI),
        (30.0, 100.0, 300.0, 1e3, 3e3),
    ),
    Way("MAS", lambda model: si.MAS(model), (0.003, 0.01, 0.03, 0.1, 0.3)),
    Way("Fisher", lambda model: si.Fisher(model, cross_entropy, kind="exact"), (30.0, 100.0, 300.0, 1e3, 3e3)),
)


def halves(sizes: Sizes) -> list[tuple[Task, Task]]:
    """Return digits 0 to 4 and 5 to 9, each as a task with test images, and as one with held-out ones instead."""
    found = []
    for half in split_by_class(load_mnist(), (range(5), range(5, 10))):
        first = min(half.classes)
        x, y = half.train_inputs, half.train_targets - first
        last = slice(len(y) - sizes.held_out, len(y))
        task = Task(
            half.name,
            x[: sizes.images],
            y[: sizes.images],
            half.test_inputs,
            half.test_targets - first,
            tuple(range(5)),
        )
        found.append((task, replace(task, test_inputs=x[last], test_targets=y[last])))
    return found


def train(model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, epochs: int, seed: int) -> None:
    """Train the model."""
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        train_epoch(model, optimizer, task, batch_size=BATCH, generator=order, multi_head=False)


def some(task: Task, count: int, seed: int) -> Batches:
    """Return batches of some of the training images."""
    chosen = torch.randperm(len(task.train_targets), generator=torch.Generator().manual_seed(seed))[:count]
    return [(as_input(task.train_inputs[part]), task.train_targets[part]) for part in chosen.split(BATCH)]


def checkpoint(task: Task, epochs: int, seed: int) -> nn.Sequential:
    """Return a network that has learnt the old digits without synapses."""
    made = multilayer_perceptron((784, 256, 256, 5), torch.Generator().manual_seed(seed), zero_output=True)
    train(made, torch.optim.Adam(made.parameters(), lr=LR), task, epochs, seed)
    assert isinstance(made, nn.Sequential)
    return made


def with_new_head(old: nn.Sequential, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a copy of the network, and one with the same body and a head that has learnt nothing."""
    old = copy.deepcopy(old)
    head = nn.utils.skip_init(nn.Linear, 256, 5)
    glorot_(head, torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.weight)
    return old, nn.Sequential(*list(old)[:-1], head)


def synapses_of(new: nn.Sequential) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    """Return a fresh optimizer of the network, and synapses on its body."""
    optimizer = torch.optim.Adam(new.parameters(), lr=LR)
    return optimizer, si.SynapticIntelligence(new[:-1].named_parameters(), optimizer, c=1.0, xi=XI)


def bootstrapped(way: Way, start: nn.Sequential, reference: Batches, seed: int) -> dict[str, Any]:
    """Return the state of synapses that have the checkpoint's importance."""
    old, new = with_new_head(start, seed)
    _, synapses = synapses_of(new)
    if way.make is not None:
        importance = way.make(old)
        synapses.bootstrap(importance, reference if importance.needs_data else None)
    return copy.deepcopy(synapses.state_dict())


def path_over_half_fisher(new: nn.Sequential, synapses: si.Consolidator, task: Task, sizes: Sizes, seed: int) -> float:
    """Return the path integral's omega of the new digits over half of their Fisher information, both summed up."""
    synapses.consolidate()
    optimizer = torch.optim.Adam(new.parameters(), lr=LR)
    synapses.detach()
    fisher = si.Fisher(new, cross_entropy, kind="exact")
    other = si.Consolidator(new[:-1].named_parameters(), optimizer, fisher, c=1.0)
    other.consolidate(some(task, sizes.reference, seed))
    path, half = (sum(float(t.sum()) for t in each.omega.values()) for each in (synapses, other))
    return path / (half / 2)


def main() -> None:
    """Train, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=Sizes.seeds)
    parser.add_argument("--out", type=result_file, default=ROOT / "results" / "bootstrap.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, sizes = time.process_time(), Sizes(seeds=options.seeds)
    (old_task, old_held), (new_task, new_held) = halves(sizes)
    rows: list[dict[str, Any]] = [
        {"way": way.name, "c": c, "old": [], "new": [], "held_out_old": [], "held_out_new": []}
        for way in WAYS
        for c in way.strengths
    ]
    before: list[float] = []
    ratios: list[float] = []
    seconds: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for seed in range(sizes.seeds):
        start = checkpoint(old_task, sizes.old_epochs, seed)
        before.append(evaluate(start, old_task, multi_head=False))
        reference = some(old_task, sizes.reference, seed)
        for way in WAYS:
            began_way = time.process_time()
            state = bootstrapped(way, start, reference, seed)
            seconds[way.name].append(time.process_time() - began_way)
            for row in (row for row in rows if row["way"] == way.name):
                old, new = with_new_head(start, seed)
                optimizer, synapses = synapses_of(new)
                synapses.load_state_dict(copy.deepcopy(state))
                synapses.c = row["c"]
                train(new, optimizer, new_task, sizes.new_epochs, seed)
                for name, model, task in (
                    ("old", old, old_task),
                    ("new", new, new_task),
                    ("held_out_old", old, old_held),
                    ("held_out_new", new, new_held),
                ):
                    row[name].append(evaluate(model, task, multi_head=False))
                if way.make is None:
                    ratios.append(path_over_half_fisher(new, synapses, new_task, sizes, seed))
                print(f"seed {seed}, {way.name}, c={row['c']:g}: old {row['old'][-1]:.3f}, new {row['new'][-1]:.3f}")

    def held_out(row: dict[str, Any]) -> float:
        return fmean([*row["held_out_old"], *row["held_out_new"]])

    found = {
        "kind": "bootstrap",
        "command": "python benchmarks/bootstrap.py" + (f" --seeds {sizes.seeds}" if sizes.seeds != Sizes.seeds else ""),
        "environment": describe_environment("cpu", 1, 1),
        "cpu_seconds": time.process_time() - began,
        "sizes": asdict(sizes),
        "settings": {way.name: way.make(nn.Identity()).settings() for way in WAYS if way.make is not None},
        "before": before,
        "path_over_half_fisher": ratios,
        "chosen": {way.name: max((row for row in rows if row["way"] == way.name), key=held_out)["c"] for way in WAYS},
        "estimate_seconds": seconds,
        "rows": rows,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
