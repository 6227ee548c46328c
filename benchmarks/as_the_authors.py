"""Permuted MNIST with the loss and the epsilon of the authors' code: `python benchmarks/as_the_authors.py`.

Their loss, that of Keras 2.0.5 and before, takes no probability below 1e-7 or above 1 - 1e-7: there an image has no
gradient, be it classified wrongly or rightly. Their Adam has its epsilon before the correction of the moments. Here
both are as in their code, the weights and the order of the images as in the run of `synaptic run permuted-mnist` with
the same seed. The whole protocol, each strength in a process of its own. Writes results/as-the-authors.json.

Their first anchor is zero, where the paper and we have the weights before the first task, and their permutations are
not known. Both can be added, each set of permutations in a process of its own:

    python benchmarks/as_the_authors.py --c 0.02 --first-anchor zero --permutations 1 --permutations 2

Such a result has a file of its own, named by the options: with --c 0.1 alone, results/as-the-authors-c-0.1.json.

Not as in their code even then: TensorFlow may there take the path's gradient before or after the step.

Expect an hour and a half for two processes on two cores.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from adam_epsilon import put_before_the_correction
from result_file import result_file
from torch import Tensor, nn

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.document import exact
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.experiments.permuted_mnist import PERMUTATIONS_SEED
from synaptic_intelligence.tasks import Task, permute_pixels
from synaptic_intelligence.train import as_input, evaluate

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, STRENGTHS, SEED = EXPERIMENTS["permuted-mnist"], (0.0, 0.02), 0
LEAST = 1e-7


def clipped_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss of the logits ``[B, C]``, and how many of the B probabilities it has clipped."""
    p = logits.softmax(dim=1).gather(1, targets[:, None])
    clipped = p.clamp(LEAST, 1 - LEAST)
    return -clipped.log().mean(), (clipped != p).sum()


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, batch_size: int, order: torch.Generator
) -> float:
    """Train for one pass, as the library's ``train_epoch`` but for the loss; return the share that was clipped."""
    images = torch.randperm(len(task.train_targets), generator=order)
    clipped = torch.zeros((), dtype=torch.int64)
    model.train()
    for batch in torch.split(images, batch_size):
        optimizer.zero_grad()
        logits = model(as_input(task.train_inputs.index_select(0, batch)))
        loss, count = clipped_cross_entropy(logits, task.train_targets.index_select(0, batch))
        loss.backward()
        optimizer.step()
        clipped += count
    return int(clipped) / len(images)


def put_the_first_anchor_at_zero(synapses: SynapticIntelligence) -> None:
    """Measure the first task's movement from zero, as if the weights had begun there."""
    state = synapses.state_dict()
    zeros = {name: torch.zeros_like(anchor) for name, anchor in state["anchor"].items()}
    # Untouched synapses would take the weights of the first step for their anchor.
    synapses.load_state_dict({**state, "anchor": zeros, "untouched": False})


def learn(run: tuple[float, int], *, first_anchor: str, epochs: int, tasks: int) -> dict[str, Any]:
    """Learn the tasks with one strength and set of permutations; return the accuracies on all tasks after each."""
    c, permutations = run
    torch.set_num_threads(1)
    settings = replace(EXPERIMENT.paper, epochs=epochs, tasks=tasks)
    stream = permute_pixels(load_mnist(None), tasks, permutations)
    model = EXPERIMENT.network(torch.Generator().manual_seed(2 * SEED))
    optimizer = adam(model.parameters(), lr=settings.lr)
    put_before_the_correction(optimizer)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=settings.xi)
    if first_anchor == "zero":
        put_the_first_anchor_at_zero(synapses)
    order = torch.Generator().manual_seed(2 * SEED + 1)
    rows, shares = [], []
    for number, task in enumerate(stream, 1):
        shares.append([train_epoch(model, optimizer, task, settings.batch_size, order) for _ in range(epochs)])
        synapses.consolidate()
        rows.append([evaluate(model, each, multi_head=False) for each in stream])
        said = f"c = {c:g}, permutations {permutations}, task {number}"
        print(f"{said}: average {sum(rows[-1][:number]) / number:.4f} {rows[-1]}", flush=True)
    return {
        "c": c,
        "permutations": permutations,
        "accuracy": rows,
        "clipped": shares,
        "sum_of_omega": float(sum(omega.double().sum() for omega in synapses.omega.values())),
    }


def options_of(given: argparse.Namespace) -> str:
    """Return what was asked for beside the defaults, as it is written on a command line."""
    asked = "".join(f" --c {exact(c)}" for c in given.c or []) + " --first-anchor zero" * (given.first_anchor == "zero")
    asked += "".join(f" --permutations {seed}" for seed in given.permutations or [])
    asked += f" --epochs {given.epochs}" * (given.epochs != EXPERIMENT.paper.epochs)
    return asked + f" --tasks {given.tasks}" * (given.tasks != EXPERIMENT.paper.tasks)


def main() -> None:
    """Learn with each strength and set of permutations, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c", type=float, action="append", help="a strength; may be given again")
    parser.add_argument("--permutations", type=int, action="append", help="their seed; may be given again")
    parser.add_argument("--first-anchor", choices=("weights", "zero"), default="weights")
    parser.add_argument("--epochs", type=int, default=EXPERIMENT.paper.epochs)
    parser.add_argument("--tasks", type=int, default=EXPERIMENT.paper.tasks)
    parser.add_argument("--out", type=result_file, help="default: in results/, named by the options")
    given = parser.parse_args()
    asked = options_of(given)
    # With other options a result takes no other's place.
    out = given.out or ROOT / "results" / f"as-the-authors{asked.replace(' --', '-').replace(' ', '-')}.json"
    runs = list(product(given.c or STRENGTHS, given.permutations or [PERMUTATIONS_SEED]))
    learnt = partial(learn, first_anchor=given.first_anchor, epochs=given.epochs, tasks=given.tasks)
    with ProcessPoolExecutor(len(runs), mp_context=get_context("spawn")) as pool:
        learnt_runs = list(pool.map(learnt, runs))
    found = {
        "command": f"python benchmarks/as_the_authors.py{asked}",
        "environment": describe_environment("cpu", 1, len(runs)),
        "epochs": given.epochs,
        "tasks": given.tasks,
        "seed": SEED,
        "first_anchor": given.first_anchor,
        "runs": learnt_runs,
    }
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
