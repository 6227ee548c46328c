"""What a step costs beside its arithmetic, `python benchmarks/step_python.py`: Python, hooks and calls.

Networks of a few numbers in few or many tensors are stepped, so that nothing else takes time. Forms take turns in a new
random order each round. A straight line through two numbers of tensors gives what a step costs at all, and what each
tensor adds to it; shown are medians and quartiles over the rounds. Writes results/step-python-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import synaptic_intelligence as si
from synaptic_intelligence.experiments.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
FORMS = ("plain", "inside", "hooks")
TENSORS = (6, 98)  # a network of three layers, and a decoder of eight blocks


def stepped(form: str, tensors: int) -> Callable[[], None]:
    """Return the step of an optimizer of so many tensors of eight numbers, in its second task."""
    parameters = {f"p{i}": nn.Parameter(torch.randn(8)) for i in range(tensors)}
    for parameter in parameters.values():
        parameter.grad = torch.randn(8)
    if form == "inside":
        inside = si.optim.Adam(parameters.items(), c=0.1, xi=0.1)
        inside.step()
        inside.consolidate()
        return inside.step
    optimizer = torch.optim.Adam(parameters.values(), fused=True)
    if form == "hooks":
        synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=0.1, xi=0.1)
        optimizer.step()
        synapses.consolidate()
    return optimizer.step


def microseconds(step: Callable[[], None], times: int) -> float:
    """Return the mean time of one of so many steps."""
    step()
    start = time.perf_counter()
    for _ in range(times):
        step()
    return 1e6 * (time.perf_counter() - start) / times


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", type=int, default=300, help="steps in a round")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps = {(form, count): stepped(form, count) for form in FORMS for count in TENSORS}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for number in range(asked.rounds):
        for key in random.Random(number).sample([*steps], len(steps)):
            found[key].append(microseconds(steps[key], asked.times))
    few, many = TENSORS
    rows = []
    for form in FORMS:
        each = [(b - a) / (many - few) for a, b in zip(found[form, few], found[form, many], strict=True)]
        fixed = [a - few * slope for a, slope in zip(found[form, few], each, strict=True)]
        quartiles = {
            "step": statistics.quantiles(fixed, n=4, method="inclusive"),
            "tensor": statistics.quantiles(each, n=4, method="inclusive"),
        }
        rows.append({"form": form, "microseconds": quartiles})
        print(f"{form:8} {quartiles['step'][1]:.1f} us for a step, {quartiles['tensor'][1]:.2f} us for each tensor")
    result = {
        "command": " ".join(["python benchmarks/step_python.py", *sys.argv[1:]]),
        "environment": describe_environment("cpu", 1, 1),
        "rounds": asked.rounds,
        "rows": rows,
    }
    (ROOT / "results" / "step-python-cpu.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
