"""Permuted MNIST with the first anchor at zero, as the authors' code has it: `python benchmarks/first_anchor.py`.

There the first importance is the path over theta^2 + xi in place of (theta - theta_0)^2 + xi, with theta_0 the weights
before the first task. The first task is learnt once, as the paper has it; the second twice, held by either importance
with c = 0.1, from the same weights and the same state of Adam, with the images in the same order: that of the runs of
`synaptic run permuted-mnist`. Writes results/first-anchor.json.

Expect 25 minutes on one core, and next to no difference: xi is larger than both squares.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from result_file import result_file

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.tasks import Task
from synaptic_intelligence.train import evaluate, train_epoch

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, TASKS, STRENGTH, SEED = EXPERIMENTS["permuted-mnist"], 2, 0.1, 0


def compare(epochs: int) -> dict[str, Any]:
    """Learn the first task, and with both importances the second."""
    settings = replace(EXPERIMENT.paper, epochs=epochs)
    tasks = EXPERIMENT.stream(None, TASKS)
    model = EXPERIMENT.network(torch.Generator().manual_seed(2 * SEED))
    optimizer = adam(model.parameters(), lr=settings.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=STRENGTH, xi=settings.xi)
    order = torch.Generator().manual_seed(2 * SEED + 1)

    def learn(task: Task) -> None:
        for _ in range(epochs):
            train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=False)

    learn(tasks[0])
    learnt = [copy.deepcopy(kept.state_dict()) for kept in (model, optimizer, synapses)]
    next_images = order.get_state()
    forms, omegas = [], []
    for name in ("before the first task", "zero"):
        weights, moments, state = copy.deepcopy(learnt)
        if name == "zero":
            state["anchor"] = {key: torch.zeros_like(anchor) for key, anchor in state["anchor"].items()}
        with synapses.paused():
            model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        synapses.load_state_dict(state)
        order.set_state(next_images)
        synapses.consolidate()
        omegas.append(torch.cat([omega.flatten() for omega in synapses.omega.values()]).double())
        learn(tasks[1])
        accuracy = [evaluate(model, task, multi_head=False) for task in tasks]
        forms.append({"first_anchor": name, "accuracy": accuracy, "sum_of_omega": float(omegas[-1].sum())})
        print(forms[-1], flush=True)
    return {
        "epochs": epochs,
        "tasks": TASKS,
        "c": STRENGTH,
        "xi": settings.xi,
        "seed": SEED,
        "forms": forms,
        "correlation": float(torch.corrcoef(torch.stack(omegas))[0, 1]),
        "largest_difference": float((omegas[1] - omegas[0]).abs().max() / omegas[0].max()),
    }


def main() -> None:
    """Compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EXPERIMENT.paper.epochs)
    parser.add_argument("--out", type=result_file, default=ROOT / "results" / "first-anchor.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "command": "python benchmarks/first_anchor.py"
        + f" --epochs {given.epochs}" * (given.epochs != EXPERIMENT.paper.epochs),
        "environment": describe_environment("cpu", 1, 1),
        **compare(given.epochs),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
