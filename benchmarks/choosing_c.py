"""The strength that suggest_c gives, beside a grid of strengths: `python benchmarks/choosing_c.py`.

Three streams: Split MNIST as the paper has it, and short forms of permuted MNIST and of Split CIFAR. Each learns its
first task once; suggest_c then gives a strength from that task's losses, on images that it was trained on. From there
the other tasks are learnt with that strength, with each of the same eight strengths for all streams, and without pull.
What counts is the average accuracy on test images over all tasks at the end. Nothing was tuned on these runs. Besides,
the second task alone is learnt with the suggested strength and without: by how much the first task's loss has risen,
and what that strength charges for it.

Each stream and seed is kept in runs/choosing-c/ when it is done, and not run again; results/choosing-c.json is written
from all that are there. `--stream NAME --seed N` runs one of them alone.

Expect three hours on one core; within 0.01 of the best of the grid on at least two of the three.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
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


class FirstTask:
    """A network that has learnt the first task of a stream, to go on from with any strength.

    Args:
        form: the stream.
        seed: of the network, of the order of images and of dropout.
    """

    def __init__(self, form: Form, seed: int) -> None:
        self.experiment, self.settings, self.seed = form.experiment, form.settings, seed
        self.tasks = limited(self.experiment.stream(None, self.settings.tasks), self.settings.limit)
        self.model = self.experiment.network(torch.Generator().manual_seed(seed))
        self.optimizer = adam(self.model.parameters(), lr=self.settings.lr)
        self.synapses = SynapticIntelligence(self.model.named_parameters(), self.optimizer, c=0.0, xi=self.settings.xi)
        torch.manual_seed(seed)  # dropout
        self.before = self.loss()
        self.epochs(self.tasks[0], torch.Generator().manual_seed(seed))
        self.after = self.loss()
        self.synapses.consolidate()
        self.suggested = suggest_c(self.synapses, loss_before=self.before, loss_after=self.after)
        start: list[Callable[[], dict[str, Any]]] = [
            self.model.state_dict,
            self.optimizer.state_dict,
            self.synapses.state_dict,
        ]
        self._weights, self._moments, self._importance = (copy.deepcopy(state()) for state in start)

    def epochs(self, task: Task, order: torch.Generator) -> None:
        """Learn a task."""
        options: dict[str, Any] = {"batch_size": self.settings.batch_size, "multi_head": self.experiment.multi_head}
        for _ in range(self.settings.epochs):
            train_epoch(self.model, self.optimizer, task, generator=order, **options)

    def loss(self) -> float:
        """Return the loss of the first task now."""
        return loss_of(self.model, self.tasks[0], multi_head=self.experiment.multi_head)

    def go_on(self, c: float) -> Iterator[Task]:
        """Yield each further task when it was learnt with a strength, before it is consolidated."""
        with self.synapses.paused():  # weights from before
            self.model.load_state_dict(self._weights)
        self.optimizer = adam(self.model.parameters(), lr=self.settings.lr)
        self.optimizer.load_state_dict(copy.deepcopy(self._moments))
        self.synapses.attach(self.optimizer)
        self.synapses.c = self._importance["c"]
        self.synapses.load_state_dict(self._importance)
        self.synapses.c = c
        torch.manual_seed(self.seed + 1)
        order = torch.Generator().manual_seed(self.seed + 1)
        for task in self.tasks[1:]:
            if self.experiment.fresh_optimizer:
                self.optimizer = adam(self.model.parameters(), lr=self.settings.lr)
                self.synapses.attach(self.optimizer)
            self.epochs(task, order)
            yield task
            self.synapses.consolidate()


def learn(form: Form, seed: int) -> dict[str, Any]:
    """Learn a stream with the suggested strength, each of the grid, and none."""
    started, first = time.process_time(), FirstTask(form, seed)
    name, multi_head = form.experiment.name, form.experiment.multi_head
    losses = f"loss {first.before:.3f} to {first.after:.3f}"
    print(f"{name}, seed {seed}: {losses}, suggested c = {first.suggested:.3g}", flush=True)
    runs = []
    for c in [0.0, first.suggested, *GRID]:
        deque(first.go_on(c), maxlen=0)
        accuracy = [evaluate(first.model, task, multi_head=multi_head) for task in first.tasks]
        runs.append({"c": c, "accuracy": accuracy})
        print(f"  c = {c:<9.4g} {fmean(accuracy):.4f}", flush=True)
    return {
        "stream": name,
        "seed": seed,
        "settings": asdict(form.settings),
        "short": form.said,
        "loss_before": first.before,
        "loss_after": first.after,
        "suggested": first.suggested,
        "runs": runs,
        "cpu_seconds": time.process_time() - started,
    }


def charge(form: Form, seed: int) -> dict[str, Any]:
    """Learn the second task, and compare what the suggested strength charges for it with what the first one lost."""
    first, runs = FirstTask(form, seed), []
    for c in (0.0, first.suggested):
        next(first.go_on(c))
        rise = first.loss() - first.after
        first.synapses.c = first.suggested
        runs.append({"c": c, "rise": rise, "charged": float(first.synapses.penalty())})
        print(f"{form.experiment.name}, seed {seed}, second task: {runs[-1]}", flush=True)
    found = {"stream": form.experiment.name, "seed": seed, "settings": asdict(form.settings)}
    return {**found, "suggested": first.suggested, "gain": first.before - first.after, "runs": runs}


def limited(stream: Stream, limit: int | None) -> Stream:
    """Return the stream with the first training images of each task alone."""
    return tuple(
        replace(task, train_inputs=task.train_inputs[:limit], train_targets=task.train_targets[:limit])
        for task in stream
    )


def collect() -> None:
    """Write the result from all parts that are there, if they were made with the settings of now."""
    rows, charges = _parts("{}-*.json"), _parts("charge-{}-*.json")
    for row in rows:
        strengths = [run["c"] for run in row["runs"]]
        if strengths != [0.0, row["suggested"], *GRID]:
            raise SystemExit(f"{row['stream']}, seed {row['seed']}: other strengths: remove runs/choosing-c/")
    found = {
        "command": "python benchmarks/choosing_c.py",
        "environment": describe_environment("cpu", 1, 1),
        "grid": GRID,
        "asked": ASKED,
        "rows": rows,
        "charges": charges,
    }
    (ROOT / "results" / "choosing-c.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def _parts(pattern: str) -> list[dict[str, Any]]:
    rows = []
    for name, form in FORMS.items():
        for part in sorted(PARTS.glob(pattern.format(name))):
            row = json.loads(part.read_text("utf-8"))
            if row["settings"] != json.loads(json.dumps(asdict(form.settings))):
                raise SystemExit(f"{part} was made with other settings: remove it, and run this again")
            rows.append(row)
    return rows


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
            for part, make in ((f"{name}-{seed}", learn), (f"charge-{name}-{seed}", charge)):
                path = PARTS / f"{part}.json"
                if asked.stream in (None, name) and not path.exists():
                    path.write_text(json.dumps(make(form, seed), indent=1) + "\n", "utf-8")
                    collect()
    collect()


if __name__ == "__main__":
    main()
