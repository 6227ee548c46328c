"""What importance from data costs at the end of a task: `python benchmarks/end_of_task.py`.

`consolidate(data)` of the Fisher information and of MAS on a part of MNIST, in the network of permuted MNIST,
784-2000-2000-10, and in a small one, 784-8-10. Per-sample gradients of linear layers are kept as two factors (see
importance/linear_layers.py), or, as of any other layer, whole; the two take turns. Writes
results/end-of-task-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.permuted_mnist import network
from synaptic_intelligence.importance import per_sample
from synaptic_intelligence.train import as_input

ROOT = Path(__file__).resolve().parent.parent
ESTIMATORS = ("Fisher, exact", "Fisher, empirical", "MAS")


def small() -> nn.Module:
    """Return a network whose gradients are small beside what it takes to run it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "784-2000-2000-10": lambda: network(torch.Generator().manual_seed(0)),
    "784-8-10": small,
}


def consolidate(
    name: str, make: Callable[[], nn.Module], data: list[tuple[Tensor, Tensor]], *, factors: bool
) -> tuple[float, dict[str, Tensor]]:
    """Return how many seconds the end of a task takes, and the importance that it gives."""
    model = make().to(data[0][0].device)
    importance: si.Fisher | si.MAS = si.MAS(model)
    if name.startswith("Fisher"):
        importance = si.Fisher(model, cross_entropy, kind="exact" if name.endswith("exact") else "empirical")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.Consolidator(model.named_parameters(), optimizer, importance, c=1.0)
    found = per_sample.linear_layers if factors else lambda *_: {}
    with mock.patch.object(per_sample, "linear_layers", found):
        start = time.perf_counter()
        synapses.consolidate(data)
        if data[0][0].device.type != "cpu":
            torch.get_device_module(data[0][0].device).synchronize()
        return time.perf_counter() - start, dict(synapses.omega)


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference over the largest value, of the tensor where it is largest."""
    return max(float((found[name] - t).abs().max() / t.abs().max()) for name, t in expected.items())


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    asked = parser.parse_args()
    task = load_mnist().to(asked.device)
    data = [(as_input(task.train_inputs[: asked.images]), task.train_targets[: asked.images])]
    rows = []
    for (size, make), name in product(NETWORKS.items(), ESTIMATORS):
        times: dict[str, list[float]] = {"whole": [], "factors": []}
        importance: dict[str, dict[str, Tensor]] = {}
        for number in range(-1, asked.rounds):
            for form in sorted(times, reverse=number % 2 == 0):
                took, importance[form] = consolidate(name, make, data, factors=form == "factors")
                if number >= 0:  # the first round warms up
                    times[form].append(took)
        quotients = [whole / factors for whole, factors in zip(times["whole"], times["factors"], strict=True)]
        quartiles = statistics.quantiles(quotients, n=4, method="inclusive")
        differ = apart(importance["factors"], importance["whole"])
        rows.append(
            {"network": size, "estimator": name, "seconds": times, "times_faster": quartiles, "difference": differ}
        )
        low, middle, high = quartiles
        medians = (f"{statistics.median(times[form]):.3f} s {form}" for form in times)
        print(
            f"{size}, {name}: {', '.join(medians)}: {middle:.1f} times as fast ({low:.1f} to {high:.1f}); "
            f"{differ:.1e} apart"
        )
    file = ROOT / "results" / f"end-of-task-{torch.device(asked.device).type}.json"
    found = {
        "command": f"python benchmarks/end_of_task.py --rounds {asked.rounds} --images {asked.images}",
        "environment": describe_environment(asked.device, torch.get_num_threads(), 1),
        "rounds": asked.rounds,
        "images": asked.images,
        "rows": rows,
    }
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
