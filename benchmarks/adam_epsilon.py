"""Permuted MNIST with Adam's epsilon where the authors' code has it: `python benchmarks/adam_epsilon.py`.

There it is added to the root of the second moment before that is corrected for its start at zero, here after. In our
terms theirs is epsilon over the root of the correction: at the first step 32 times ours, and after some thousands of
steps the same. Two tasks, whole protocol, c = 0.1, with either. Writes results/adam-epsilon.json.

Expect 25 minutes on one core, and accuracies that one seed does not tell apart.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from result_file import result_file

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.train import evaluate, train_epoch

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, STRENGTH, SEED = EXPERIMENTS["permuted-mnist"], 0.1, 0


def put_before_the_correction(optimizer: torch.optim.Optimizer) -> None:
    """Have each step take the epsilon that gives what the authors' Adam computes."""
    (group,) = optimizer.param_groups
    epsilon, (_, beta2), steps = group["eps"], group["betas"], count(1)

    def set_epsilon(*_: Any) -> None:
        group["eps"] = epsilon / math.sqrt(1 - beta2 ** next(steps))

    optimizer.register_step_pre_hook(set_epsilon)


def learn(epochs: int, before: bool) -> dict[str, Any]:
    """Learn two tasks; return the accuracies on both after each, and what omega sums to."""
    settings = replace(EXPERIMENT.paper, epochs=epochs)
    tasks = EXPERIMENT.stream(None, 2)
    model = EXPERIMENT.network(torch.Generator().manual_seed(2 * SEED))
    optimizer = adam(model.parameters(), lr=settings.lr)
    if before:
        put_before_the_correction(optimizer)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=STRENGTH, xi=settings.xi)
    order = torch.Generator().manual_seed(2 * SEED + 1)
    rows, sums = [], []
    for task in tasks:
        for _ in range(epochs):
            train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=False)
        synapses.consolidate()
        rows.append([evaluate(model, each, multi_head=False) for each in tasks])
        sums.append(sum(float(omega.double().sum()) for omega in synapses.omega.values()))
    found = {"epsilon": f"{'before' if before else 'after'} the correction", "accuracy": rows, "sum_of_omega": sums}
    print(found, flush=True)
    return found


def main() -> None:
    """Learn with both, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EXPERIMENT.paper.epochs)
    parser.add_argument("--out", type=result_file, default=ROOT / "results" / "adam-epsilon.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = given.epochs == EXPERIMENT.paper.epochs
    found = {
        "command": "python benchmarks/adam_epsilon.py" + f" --epochs {given.epochs}" * (not whole),
        "environment": describe_environment("cpu", 1, 1),
        "epochs": given.epochs,
        "c": STRENGTH,
        "seed": SEED,
        "forms": [learn(given.epochs, before) for before in (False, True)],
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
