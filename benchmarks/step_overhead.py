"""What synapses cost: a step of training with them over one without, `python benchmarks/step_overhead.py`.

Each workload is trained in several forms that take turns, block by block and in a new random order each round, so that
what else the machine does, and what a block leaves in the caches, falls on all of them; a ratio is that of two blocks
of one round. Shown are medians and quartiles of the ratios. The optimizer's step is timed alone, with a gradient that
stays, and as part of a whole step of training.

plain      torch's fused Adam, without synapses
inside     si.optim.Adam, in the first task (path alone) and from the second on (path, anchor, omega), then also with
           omega in bfloat16; on a GPU, and with --no-kernel on the CPU, by torch.compile, and once without it
hooks      si.SynapticIntelligence around torch's fused Adam, likewise
naive      the equations as one would first write them: clones, and a penalty in the loss; from the second task on

The triad ``a += s b`` is what memory can do: its arrays are together as large as all that a step inside touches, so
that the caches hold as much of them. Memory is measured in processes of their own, as the most that some steps and the
end of a task took. Writes results/step-overhead-DEVICE.json, with --no-kernel results/step-overhead-cpu-compiled.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from networks import Decoder, perceptron, resnet18
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import synaptic_intelligence as si
from synaptic_intelligence.experiments.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
C, XI = 0.1, 0.1
WITHOUT = "inside, not compiled"
FORMS = ("plain", "inside, first task", "inside", "inside, bfloat16", "hooks, first task", "hooks", "naive")
FORMS_WITHOUT_KERNEL = (*FORMS[:4], WITHOUT, *FORMS[4:])

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """What is trained, and on what; ``half``: with autocast to bfloat16."""

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    half: bool = False


def _images(*shape: int) -> Callable[[], Batch]:
    return lambda: (torch.rand(*shape), torch.randint(10, (shape[0],)))


def _text(sequences: int, length: int, tokens: int) -> Callable[[], Batch]:
    return lambda: (torch.randint(tokens, (sequences, length)), torch.randint(tokens, (sequences, length)))


WORKLOADS = (
    Workload("MLP-256, batch 64", lambda: perceptron(256), _images(64, 784)),
    Workload("MLP-2000, batch 256", lambda: perceptron(2000), _images(256, 784)),
    Workload("ResNet-18, batch 64", resnet18, _images(64, 3, 32, 32)),
    Workload("GPT 26 M, 2 x 64 tokens", lambda: Decoder(512, 8, 8, 1024, 64), _text(2, 64, 1024)),
)
ON_A_GPU = (Workload("GPT-2 124 M, bf16", lambda: Decoder(768, 12, 12, 50257, 1024), _text(8, 1024, 50257), half=True),)


class Naive:
    """Synaptic intelligence in a loop over the parameters, with clones, and the penalty by a second backward."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)
        self.path = [torch.zeros_like(p) for p in self.parameters]
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.omega = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Add the penalty's gradient, step, and integrate."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        before = [p.detach().clone() for p in self.parameters]
        held = zip(self.parameters, self.anchor, self.omega, strict=True)
        (C * sum((omega * (p - anchor) ** 2).sum() for p, anchor, omega in held)).backward()
        self.optimizer.step()
        for path, gradient, p, old in zip(self.path, gradients, self.parameters, before, strict=True):
            path -= gradient * (p.detach() - old)
            p.grad = gradient  # the task's, as it was

    @torch.no_grad()
    def consolidate(self) -> None:
        """End a task."""
        for i, (p, anchor) in enumerate(zip(self.parameters, self.anchor, strict=True)):
            self.omega[i] = torch.relu(self.omega[i] + self.path[i] / ((p - anchor) ** 2 + XI))
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.path = [torch.zeros_like(p) for p in self.parameters]


class Training:
    """A network, its batch and its optimizer in one of the forms."""

    def __init__(self, workload: Workload, form: str, device: str) -> None:
        torch.manual_seed(0)
        self.model = workload.model().to(device)
        self.x, self.y = (tensor.to(device) for tensor in workload.batch())
        self.device, self.half = device, workload.half
        self.optimizer = self._optimizer(form)
        self.train()
        if form != "plain" and "first" not in form:
            self._consolidate()
            self.train()

    def _optimizer(self, form: str) -> torch.optim.Optimizer | Naive:
        if form == "naive":
            naive = Naive(self.model)
            self._consolidate = naive.consolidate
            return naive
        if form.startswith("inside"):
            dtype = torch.bfloat16 if "bfloat16" in form else None
            optimizer = si.optim.Adam(
                self.model.named_parameters(),
                c=C,
                xi=XI,
                omega_dtype=dtype,
                compiled=form != WITHOUT,  # of no effect where there is a kernel
            )
            self._consolidate = optimizer.consolidate
            return optimizer
        plain = torch.optim.Adam(self.model.parameters(), fused=True)
        if form.startswith("hooks"):
            self._consolidate = si.SynapticIntelligence(self.model.named_parameters(), plain, c=C, xi=XI).consolidate
        return plain

    def gradients(self) -> None:
        """Compute the gradients anew."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16) if self.half else nullcontext():
            loss = cross_entropy(self.model(self.x).flatten(0, -2), self.y.flatten())
        loss.backward()

    def train(self) -> None:
        """Take a whole step of training."""
        self.gradients()
        self.optimizer.step()

    def step(self) -> None:
        """Take the optimizer's step alone."""
        self.optimizer.step()

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device != "cpu":
            torch.get_device_module(self.device).synchronize()

    def seconds(self, what: Callable[[], None], times: int) -> float:
        """Return the mean time of one, over so many in a row, after one that is not timed."""
        what()
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            what()
        self.wait()
        return (time.perf_counter() - start) / times


def measure(workload: Workload, forms: tuple[str, ...], device: str, rounds: int, block: float) -> dict[str, Any]:
    """Time all forms in turn: a block of each lasts about ``block`` seconds."""
    trainings = {form: Training(workload, form, device) for form in forms}
    parameters = sum(p.numel() for p in trainings["plain"].model.parameters())
    found: dict[str, dict[str, list[float]]] = {}
    for part in ("step", "training"):
        times: dict[str, list[float]] = {form: [] for form in forms}
        action = {form: (t.step if part == "step" else t.train) for form, t in trainings.items()}
        for t in trainings.values():
            t.gradients()
        count = max(1, round(block / trainings["plain"].seconds(action["plain"], 3)))
        triad: list[float] = []
        for number in range(rounds):
            for form in random.Random(number).sample(forms, len(forms)):
                times[form].append(trainings[form].seconds(action[form], count))
            if part == "step":
                triad.append(_triad(device, 7 * parameters // 2))
        found[part] = times
        if part == "step":
            found["triad"] = {"bytes_per_second": triad}
    return {"workload": workload.name, "parameters": parameters, "seconds": found}


def _triad(device: str, numbers: int) -> float:
    """Return the bytes per second of ``a += s b``, two reads and a write, for arrays of so many numbers each."""
    a, b = (torch.ones(numbers, device=device) for _ in range(2))
    times = max(3, 2**25 // numbers)
    a.add_(b, alpha=2.0)
    start = time.perf_counter()
    for _ in range(times):
        a.add_(b, alpha=2.0)
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return 3 * a.nbytes * times / (time.perf_counter() - start)


def peak(workload: Workload, form: str, device: str) -> int:
    """Return the most bytes that three steps of training and the end of a task took; in a process of its own."""
    training = Training(workload, form, device)
    for _ in range(3):
        training.train()
    if device == "cpu":
        # Not getrusage: what it tells begins with the size of the process that started this one.
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
        return int(line) * 1024
    return int(torch.get_device_module(device).max_memory_allocated())


def add_memory(rows: list[dict[str, Any]], forms: tuple[str, ...], device: str) -> None:
    """Measure the peaks of all workloads and forms, and print how far they lie above plain training's."""
    for row in rows:
        command = [sys.executable, __file__, "--device", device, "--peak", row["workload"]]
        row["peak_bytes"] = peaks = {
            form: int(subprocess.run([*command, form], check=True, capture_output=True, text=True).stdout)
            for form in forms
            if "first" not in form
        }
        print(f"{row['workload']}: peak of memory beyond plain training, in multiples of the parameters")
        for form in list(peaks)[1:]:
            print(f"    {form:20} {(peaks[form] - peaks['plain']) / (4 * row['parameters']):.2f}", flush=True)


def ratios(times: dict[str, list[float]], form: str) -> list[float]:
    """Return lower quartile, median and upper quartile of a form's time over that of plain training."""
    over = [ours / plain for ours, plain in zip(times[form], times["plain"], strict=True)]
    return statistics.quantiles(over, n=4, method="inclusive")


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block", type=float, default=0.25, help="seconds")
    parser.add_argument("--memory", action="store_true", help="measure memory alone, and add it to the result")
    parser.add_argument("--no-kernel", action="store_true", help="as if the CPU had no kernel; without memory")
    parser.add_argument("--only", help="a part of a workload's name")
    parser.add_argument("--peak", nargs=2, metavar=("WORKLOAD", "FORM"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    # What says that a step is not what its name says is an error.
    warnings.simplefilter("error", si.SynapseWarning)
    if asked.no_kernel:
        if asked.device != "cpu":
            parser.error("--no-kernel is for the CPU: elsewhere there is none")
        os.environ["CC"] = "no-such-compiler"
        warnings.filterwarnings("ignore", ".*no-such-compiler", si.SynapseWarning)
    forms = FORMS_WITHOUT_KERNEL if asked.no_kernel or asked.device != "cpu" else FORMS
    workloads = WORKLOADS + (ON_A_GPU if asked.device != "cpu" else ())
    if asked.peak:
        name, form = asked.peak
        print(peak(next(w for w in workloads if w.name == name), form, asked.device))
        return
    file = ROOT / "results" / f"step-overhead-{torch.device(asked.device).type}{'-compiled' * asked.no_kernel}.json"
    if asked.memory:
        found = json.loads(file.read_text("utf-8"))
        add_memory(found["rows"], forms, asked.device)
        # The times keep the environment in which they were measured.
        found["memory_environment"] = describe_environment(asked.device, torch.get_num_threads(), 1)
        file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        return
    chosen = [workload for workload in workloads if not asked.only or asked.only in workload.name]
    rows = []
    for workload in chosen:
        rows.append(measure(workload, forms, asked.device, asked.rounds, asked.block))
        gc.collect()
        for part in ("step", "training"):
            times = rows[-1]["seconds"][part]
            print(f"{workload.name}: {part}, {1e3 * statistics.median(times['plain']):.3f} ms plain")
            for form in forms[1:]:
                low, middle, high = ratios(times, form)
                print(f"    {form:20} {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
    if not asked.no_kernel:  # on the CPU the peak would be that of compiling
        add_memory(rows, forms, asked.device)
    environment = describe_environment(asked.device, torch.get_num_threads(), 1)
    found = {
        "command": " ".join(["python benchmarks/step_overhead.py", *sys.argv[1:]]),
        "environment": environment,
        "rounds": asked.rounds,
        "block_seconds": asked.block,
        "forms": list(forms),
        "rows": rows,
    }
    if not asked.only:
        file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
