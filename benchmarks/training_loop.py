"""What the training loop costs, over its bare arithmetic: `python benchmarks/training_loop.py`.

A step of permuted MNIST without synapses: 784-2000-2000-10, batches of 256. The loop is `train_epoch` as the
experiments run it: shuffled batches, loss, sums, optimizer. Bare are the eight matrix products of forward and backward
pass, into memory that is there already, and torch's fused Adam. The two take turns. Writes
results/training-loop-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.permuted_mnist import PAPER, network
from synaptic_intelligence.train import train_epoch

ROOT = Path(__file__).resolve().parent.parent
STEPS = 20
"""In a block."""


def loop(device: str) -> Callable[[], None]:
    """Return a function that trains for a block of steps, as the experiments do."""
    model = network(torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.lr, fused=True)
    task, first = load_mnist(), slice(STEPS * PAPER.batch_size)
    task = replace(task, train_inputs=task.train_inputs[first], train_targets=task.train_targets[first]).to(device)
    order = torch.Generator().manual_seed(1)

    def block() -> None:
        train_epoch(model, optimizer, task, batch_size=PAPER.batch_size, generator=order, multi_head=False)

    return block


def bare(device: str) -> Callable[[], None]:
    """Return a function that does the matrix products and the optimizer's work of a block of steps."""
    model = network(torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.lr, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    first, second, last = (p.detach() for p in model.parameters() if p.ndim == 2)
    of_first, of_second, of_last = (p.grad for p in model.parameters() if p.ndim == 2)
    n = PAPER.batch_size
    x, h1, h2, out = (torch.rand(n, width, device=device) for width in (784, 2000, 2000, 10))
    to1, to2, error = torch.empty_like(h1), torch.empty_like(h2), torch.rand(n, 10, device=device)

    def block() -> None:
        for _ in range(STEPS):
            torch.mm(x, first.T, out=h1)
            torch.mm(h1, second.T, out=h2)
            torch.mm(h2, last.T, out=out)
            torch.mm(error.T, h2, out=of_last)
            torch.mm(error, last, out=to2)
            torch.mm(to2.T, h1, out=of_second)
            torch.mm(to2, second, out=to1)
            torch.mm(to1.T, x, out=of_first)
            optimizer.step()

    return block


def seconds(block: Callable[[], None], device: str) -> float:
    """Return the time of one step in a block."""
    start = time.perf_counter()
    block()
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    blocks = {"loop": loop(asked.device), "bare": bare(asked.device)}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(-1, asked.rounds):
        for name in sorted(blocks, reverse=number % 2 == 0):
            took = seconds(blocks[name], asked.device)
            if number >= 0:  # the first round warms up
                times[name].append(took)
    over = [ours / least for ours, least in zip(times["loop"], times["bare"], strict=True)]
    low, middle, high = statistics.quantiles(over, n=4, method="inclusive")
    print(
        f"{1e3 * statistics.median(times['bare']):.1f} ms bare; the loop {middle:.3f} ({low:.3f} to {high:.3f}) of it"
    )
    found = {
        "command": "python benchmarks/training_loop.py",
        "environment": describe_environment(asked.device, torch.get_num_threads(), 1),
        "rounds": asked.rounds,
        "steps": STEPS,
        "seconds": times,
        "ratio": [low, middle, high],
    }
    file = ROOT / "results" / f"training-loop-{torch.device(asked.device).type}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
