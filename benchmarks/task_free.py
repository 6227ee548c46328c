"""Split MNIST with nobody to announce its tasks: `python benchmarks/task_free.py`.

Network, tasks, heads, batches and strength of the experiment, but three epochs of each task, and one Adam for all of
them, since nobody says when to make a fresh one. The head is told which task an image belongs to; the synapses are not.
They consolidate where each task ends (told), every so many steps, or at plateaus of the loss; or there are none (c=0).
The settings of the plateau are those of a small grid that had the best average accuracy at the end, on a seed that is
not among the reported ones. Writes results/task-free.json.

Expect 5 minutes on one core; with c=1 an average accuracy of about 0.99 where the synapses are told, and with c=0
of about 0.94.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.experiments.split_mnist import PAPER, network, stream
from synaptic_intelligence.tasks import Stream
from synaptic_intelligence.train import as_input, evaluate, mask_logits
from synaptic_intelligence.triggers import Every, Plateau, Trigger

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 3
SEARCH_SEED = 100
MISTUNED = 0.37
"""Of a task's steps."""
GRID = [
    {"window": window, "mean_below": mean, "std_below": std * mean}
    for window, mean, std in product((20, 50), (0.02, 0.05, 0.1), (0.5, 1.0))
]
"""Settings of the plateau: losses, nats, nats. At the start of each task the loss is log 2, as its head is zero."""


@dataclass(frozen=True)
class Arm:
    """A way to decide when to consolidate."""

    name: str
    c: float
    told: bool = False
    every: int | None = None
    plateau: dict[str, Any] | None = None

    def trigger(self) -> Trigger | None:
        """Return a fresh trigger, if one decides."""
        if self.plateau is not None:
            return Plateau(**self.plateau)
        return Every(self.every) if self.every is not None else None


def learn(tasks: Stream, arm: Arm, seed: int) -> dict[str, Any]:
    """Learn all tasks one after the other; return the accuracies at the end, and the steps that consolidated."""
    model = network(torch.Generator().manual_seed(seed))
    order = torch.Generator().manual_seed(seed + 1)
    optimizer = adam(model.parameters(), lr=PAPER.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=arm.c, xi=PAPER.xi)
    synapses.trigger = arm.trigger()
    consolidated: list[int] = []
    step = 0
    for task in tasks:
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(task.train_targets), generator=order).split(PAPER.batch_size):
                optimizer.zero_grad()
                logits = mask_logits(model(as_input(task.train_inputs[batch])), task.classes)
                loss = cross_entropy(logits, task.train_targets[batch])
                loss.backward()
                optimizer.step()
                step += 1
                if synapses.observe(loss):
                    consolidated.append(step)
        if arm.told:
            synapses.consolidate()
            consolidated.append(step)
    accuracy = [evaluate(model, task, multi_head=True) for task in tasks]
    print(f"{arm.name}, seed {seed}: {fmean(accuracy):.4f}, {len(consolidated)} consolidations", flush=True)
    return {"arm": arm.name, "seed": seed, "accuracy": accuracy, "consolidated": consolidated}


def main() -> None:
    """Search, measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tasks = stream()
    steps = [EPOCHS * math.ceil(len(task.train_targets) / PAPER.batch_size) for task in tasks]
    search = []
    for settings in GRID:
        run = learn(tasks, Arm(str(settings), c=1.0, plateau=settings), SEARCH_SEED)
        search.append({**settings, "accuracy": run["accuracy"], "consolidated": run["consolidated"]})
    best = max(search, key=lambda found: fmean(found["accuracy"]))
    chosen = {name: best[name] for name in GRID[0]}
    mean_steps = round(fmean(steps))
    arms = [
        Arm("told", c=1.0, told=True),
        Arm("plateau", c=1.0, plateau=chosen),
        Arm("every, a task's steps", c=1.0, every=mean_steps),
        Arm("every, mistuned", c=1.0, every=round(MISTUNED * mean_steps)),
        Arm("without synapses", c=0.0, told=True),
    ]
    runs = [learn(tasks, arm, seed) for seed in range(asked.seeds) for arm in arms]
    found = {
        "command": "python benchmarks/task_free.py",
        "environment": describe_environment("cpu", 1, 1),
        "cpu_seconds": time.process_time(),
        "epochs": EPOCHS,
        "xi": PAPER.xi,
        "tasks": [task.name for task in tasks],
        "steps": steps,
        "mistuned": MISTUNED,
        "arms": [{"name": arm.name, "c": arm.c, "every": arm.every, "plateau": arm.plateau} for arm in arms],
        "seeds": list(range(asked.seeds)),
        "runs": runs,
        "search_seed": SEARCH_SEED,
        "search": search,
    }
    (ROOT / "results" / "task-free.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
