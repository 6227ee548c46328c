"""All seeds and strengths at once, or one run after another? Time Split MNIST: `python benchmarks/replicates.py`.

On a CPU replicates, with all its cores as threads, are compared with worker processes, one for each core; on a GPU
(`--device cuda`) with the runs one after the other. The forms take turns, several rounds long, so that what else the
machine does falls on all of them; a ratio is that of two times of the same round. The time is that from the start of
the first job to the end of the last one, without starting up and loading. Writes results/replicates-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.folder import start_run
from synaptic_intelligence.experiments.plan import Message, Plan
from synaptic_intelligence.experiments.replicates import train_replicates
from synaptic_intelligence.experiments.workers import run_here, run_in_workers
from synaptic_intelligence.tasks import Stream

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 1

Train = Callable[[Plan, Stream, Callable[[Message], None]], None]


def at_once(plan: Plan, loaded: Stream, listen: Callable[[Message], None]) -> None:
    """Train all runs at once."""
    torch.set_num_threads(plan.threads)
    train_replicates(plan, loaded, listen)


def one_after_another(plan: Plan, loaded: Stream, listen: Callable[[Message], None]) -> None:
    """Train the runs one after the other."""
    run_here(plan, plan.jobs, listen, loaded)


def in_workers(plan: Plan, loaded: Stream, listen: Callable[[Message], None]) -> None:
    """Train the runs in processes of one thread, one for each core."""
    run_in_workers(replace(plan, threads=1), plan.jobs, plan.threads, listen)


def seconds(train: Train, plan: Plan, loaded: Stream) -> float:
    """Return how long the training takes."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = replace(plan, out=Path(folder) / "run")
        start_run(plan, 1, "benchmarks/replicates.py", overwrite=False)
        train(plan, loaded, lambda message: times.append(time.perf_counter()))
    return times[-1] - times[0]


def quartiles(numbers: list[float]) -> list[float]:
    """Return the quartiles, the median among them."""
    return statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="only the first images of each task, for a quick look")
    options = parser.parse_args()
    on_cpu = torch.device(options.device).type == "cpu"
    cores = len(os.sched_getaffinity(0)) if on_cpu else 1
    forms: dict[str, Train] = {"replicates": at_once}
    forms |= {"worker processes": in_workers} if on_cpu else {"one after another": one_after_another}

    experiment = EXPERIMENTS["split-mnist"]
    settings = replace(experiment.paper, seeds=4 if on_cpu else 10, epochs=EPOCHS, limit=options.limit)
    plan = Plan(experiment, settings, options.device, cores, None, ROOT)
    loaded = plan.load()
    if not on_cpu:
        for train in forms.values():  # what a GPU does once
            seconds(train, replace(plan, settings=replace(settings, seeds=1, limit=640)), loaded)
    times: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(options.rounds):
        for form, train in forms.items():
            times[form].append(seconds(train, plan, loaded))
            print(f"round {number + 1}: {form}: {times[form][-1]:.1f} s", flush=True)
    limit = f" --limit {options.limit}" if options.limit else ""
    (other,) = set(forms) - {"replicates"}
    found = {
        "command": f"python benchmarks/replicates.py --device {options.device} --rounds {options.rounds}{limit}",
        "environment": describe_environment(options.device, cores, 1),
        "rounds": options.rounds,
        "seeds": settings.seeds,
        "c": settings.c,
        "epochs": EPOCHS,
        "limit": options.limit,
        "rows": [{"form": form, "quartiles": quartiles(times[form]), "seconds": times[form]} for form in forms],
        "times_faster": {
            "than": other,
            "quartiles": quartiles([b / a for a, b in zip(times["replicates"], times[other], strict=True)]),
        },
    }
    kind = torch.device(options.device).type
    (ROOT / "results" / f"replicates-{kind}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
