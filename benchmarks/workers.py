"""Processes or threads? Time one short run of Split MNIST with both: `python benchmarks/workers.py`.

The variants take turns, several rounds long, so that what else the machine does falls on all of them. The time is that
from the first job's start to the last one's end, without starting up. Writes results/workers.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.folder import start_run
from synaptic_intelligence.experiments.plan import Message, Plan
from synaptic_intelligence.experiments.runner import run

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ((2, 1), (1, 2), (1, 1))  # processes, threads of each
ROUNDS, SEEDS, EPOCHS = 5, 2, 1


def seconds(workers: int, threads: int) -> float:
    """Return how long the training takes."""
    experiment = EXPERIMENTS["split-mnist"]
    settings = replace(experiment.paper, seeds=SEEDS, epochs=EPOCHS)
    times: list[float] = []

    def listen(message: Message) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(experiment, settings, "cpu", threads, None, Path(folder) / "run")
        result = start_run(plan, workers, "benchmarks/workers.py", overwrite=False)
        run(plan, result, {}, workers, listen)
    return times[-1] - times[0]


def main() -> None:
    """Measure, print and write the result."""
    times: dict[tuple[int, int], list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(ROUNDS):
        for variant in VARIANTS:
            times[variant].append(seconds(*variant))
            print(
                f"round {number + 1}: {variant[0]} processes of {variant[1]} threads: {times[variant][-1]:.1f} s",
                flush=True,
            )
    environment = describe_environment("cpu", 1, 1)
    found = {
        "command": "python benchmarks/workers.py",
        "machine": f"{environment['cpu_count']} cores ({environment['device_name']}, torch {environment['torch']})",
        "rounds": ROUNDS,
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "rows": [
            {
                "workers": w,
                "threads": t,
                "quartiles": statistics.quantiles(times[w, t], n=4, method="inclusive"),
                "seconds": times[w, t],
            }
            for w, t in VARIANTS
        ],
    }
    (ROOT / "results" / "workers.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
