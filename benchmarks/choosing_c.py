"""The strength that suggest_c gives, beside a grid of strengths: `python benchmarks/choosing_c.py`.

Three streams: Split MNIST as the paper has it, and short forms of permuted MNIST and of Split CIFAR. Each learns its
first task once; suggest_c then gives a strength from that task's losses, on images that it was trained on. From there
the other tasks are learnt with that strength, with each of the same eight strengths for all streams, and without pull.
What counts is the average accuracy on test images over all tasks at the end. Nothing was tuned on these runs.

Each stream and seed is kept in runs/choosing-c/ when it is done, and not run again; results/choosing-c.json is written
from all that are there. `--stream NAME --seed N` runs one of them alone.

Expect three hours on one core; within 0.01 of the best of the grid on at least two of the three.
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
from torch import nn
from torch.nn.functional import cross_entropy

from synaptic_intelligence import SynapticIntelligence, suggest_c
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.tasks import Stream, Task
from synaptic_intelligence.train import as_input, evaluate, mask_logits, train_epoch

ROOT = Path(__file__).resolve().parent.parent
PARTS = ROOT / "runs" / "choosing-c"
GRID = [10.0**power for power in range(-2, 6)]
ASKED = 2000
"""Training images of the first task on which its loss is asked before and after."""


@dataclass(frozen=True)
class Form:
    """A stream of the paper, and how much of it is learnt."""

    experiment: Experiment
    settings: Settings
    seeds: int

    @property
    def said(self) -> str:
        """What is short, in words."""
        paper, here = asdict(self.experiment.paper), asdict(self.settings)
        names = {"limit": "training images of each task", "epochs": "epochs", "tasks": "tasks"}
        return ", ".join(f"{here[key]} {name}" for key, name in names.items() if here[key] != paper[key])


def short(name: str, seeds: int, **changes: Any) -> Form:
    """Return an experiment with some of the paper's settings changed."""
    return Form(EXPERIMENTS[name], replace(EXPERIMENTS[name].paper, **changes), seeds)


FORMS = {
    "split-mnist": short("split-mnist", 3),
    "permuted-mnist": short("permuted-mnist", 3, tasks=5, epochs=3, limit=10_000),
    "split-cifar": short("split-cifar", 3, tasks=4, epochs=8, limit=2000),
}


@torch.no_grad()
def loss_of(model: nn.Module, task: Task, *, multi_head: bool) -> float:
    """Return the mean loss on some training images of a task, in nats."""
    model.eval()
    total = 0.0
    inputs, targets = task.train_inputs[:ASKED], task.train_targets[:ASKED]
    for x, y in zip(inputs.split(500), targets.split(500), strict=True):
        logits = model(as_input(x))
        logits = mask_logits(logits, task.classes) if multi_head else logits
        total += float(cross_entropy(logits, y, reduction="sum"))
    return total / len(targets)


def learn(form: Form, seed: int) -> dict[str, Any]:
    """Learn a stream with the suggested strength, each of the grid, and none."""
    experiment, settings, started = form.experiment, form.settings, time.process_time()
    masked = experiment.multi_head
    tasks = limited(experiment.stream(None, settings.tasks), settings.limit)
    model = experiment.network(torch.Generator().manual_seed(seed))
    optimizer = adam(model.parameters(), lr=settings.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=settings.xi)

    def epochs(task: Task, optimizer: torch.optim.Optimizer, order: torch.Generator) -> None:
        for _ in range(settings.epochs):
            train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=masked)

    torch.manual_seed(seed)  # dropout
    before = loss_of(model, tasks[0], multi_head=masked)
    epochs(tasks[0], optimizer, torch.Generator().manual_seed(seed))
    after = loss_of(model, tasks[0], multi_head=masked)
    synapses.consolidate()
    suggested = suggest_c(synapses, loss_before=before, loss_after=after)
    print(
        f"{experiment.name}, seed {seed}: loss {before:.3f} to {after:.3f}, suggested c = {suggested:.3g}", flush=True
    )
    start: list[Callable[[], dict[str, Any]]] = [model.state_dict, optimizer.state_dict, synapses.state_dict]
    weights, moments, importance = (copy.deepcopy(state()) for state in start)
    runs = []
    for c in [0.0, suggested, *GRID]:
        with synapses.paused():  # weights from before
            model.load_state_dict(weights)
        optimizer = adam(model.parameters(), lr=settings.lr)
        optimizer.load_state_dict(copy.deepcopy(moments))
        synapses.attach(optimizer)
        synapses.load_state_dict(importance)
        synapses.c = c
        torch.manual_seed(seed + 1)
        order = torch.Generator().manual_seed(seed + 1)
        for task in tasks[1:]:
            if experiment.fresh_optimizer:
                optimizer = adam(model.parameters(), lr=settings.lr)
                synapses.attach(optimizer)
            epochs(task, optimizer, order)
            synapses.consolidate()
        accuracy = [evaluate(model, task, multi_head=masked) for task in tasks]
        runs.append({"c": c, "accuracy": accuracy})
        print(f"  c = {c:<9.4g} {fmean(accuracy):.4f}", flush=True)
    return {
        "stream": experiment.name,
        "seed": seed,
        "settings": asdict(settings),
        "short": form.said,
        "loss_before": before,
        "loss_after": after,
        "suggested": suggested,
        "runs": runs,
        "cpu_seconds": time.process_time() - started,
    }


def limited(stream: Stream, limit: int | None) -> Stream:
    """Return the stream with the first training images of each task alone."""
    return tuple(
        replace(task, train_inputs=task.train_inputs[:limit], train_targets=task.train_targets[:limit])
        for task in stream
    )


def collect() -> None:
    """Write the result from all parts that are there, if they were made with the settings of now."""
    parts = [part for name in FORMS for part in sorted(PARTS.glob(f"{name}-*.json"))]
    rows = [json.loads(part.read_text("utf-8")) for part in parts]
    for part, row in zip(parts, rows, strict=True):
        strengths = [run["c"] for run in row["runs"]]
        wanted = [0.0, row["suggested"], *GRID], json.loads(json.dumps(asdict(FORMS[row["stream"]].settings)))
        if (strengths, row["settings"]) != wanted:
            raise SystemExit(f"{part} was made with other settings: remove it, and run this again")
    found = {
        "command": "python benchmarks/choosing_c.py",
        "environment": describe_environment("cpu", 1, 1),
        "grid": GRID,
        "asked": ASKED,
        "rows": rows,
    }
    (ROOT / "results" / "choosing-c.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def main() -> None:
    """Learn what was not learnt yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", choices=FORMS)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    PARTS.mkdir(parents=True, exist_ok=True)
    for name, form in FORMS.items():
        for seed in range(form.seeds) if asked.seed is None else [asked.seed]:
            part = PARTS / f"{name}-{seed}.json"
            if asked.stream in (None, name) and not part.exists():
                part.write_text(json.dumps(learn(form, seed), indent=1) + "\n", "utf-8")
                collect()
    collect()


if __name__ == "__main__":
    main()
