"""Ten thousand consolidations of one network: `python stress/consolidations.py --count 10000`.

A small network learns a new random target in each task of three steps, through hooks, with synapses inside the
optimizer, and with omega in bfloat16; with omega kept for ever and with a decay of 0.9. After each consolidation:
- every number is finite;
- omega is what eq. 5 gives from the omega before it, computed in float64 beside the library: within 1e-5 (largest
  difference over largest value, float32), or half a unit in the last of bfloat16's eight bits and as much again;
- omega is at most the sum of all that was added, and with the decay d at most the largest addition over 1 - d.
Memory, live tensors and the time of a consolidation, over that of a forward and backward pass in the same task, are
sampled; over the last four fifths a straight line through them must be flat: at most 100 bytes for a consolidation, no
more tensors, at most 10 % more time. Linux only.
Writes results/stress-consolidations.json.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, final

import torch
from record import Record, Trend, parser, resident_bytes, trend
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import synaptic_intelligence as si

INPUTS, HIDDEN, OUTPUTS, BATCH, STEPS, SAMPLES, XI = 16, 32, 8, 16, 3, 100, 1e-3
BYTES_LIMIT, TIME_LIMIT = 100.0, 0.10
Form = tuple[str, torch.dtype | None, float]
FORMS: tuple[Form, ...] = (
    ("hooks", None, 1.0),
    ("hooks", None, 0.9),
    ("inside", None, 1.0),
    ("inside", None, 0.9),
    ("hooks", torch.bfloat16, 0.9),
    ("inside", torch.bfloat16, 0.9),
)


def error(found: Tensor, right: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((found.double() - right).abs().max() / right.abs().max().clamp(min=1e-300))


@final
@dataclass
class Watched:
    """The omega of one parameter, computed in float64 beside the library's.

    Args:
        step_error: the largest error of one consolidation, from the library's own omega before it.
        largest, total: the largest addition so far, and the sum of all.
    """

    step_error: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    right: Tensor | None = None

    def see(self, before: Tensor, path: Tensor, moved: Tensor, after: Tensor, decay: float) -> None:
        """Take in one consolidation."""
        added = path.double() / (moved.double().square() + XI)
        self.step_error = max(self.step_error, error(after, (decay * before.double() + added).relu()))
        self.right = (added if self.right is None else decay * self.right + added).relu()
        most = float(added.max().clamp(min=0))
        self.largest, self.total = max(self.largest, most), self.total + most


@final
@dataclass
class Samples:
    """What is seen every hundredth of the way."""

    count: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    tensors: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    over_passes: list[float] = field(default_factory=list)

    def take(self, count: int, times: list[float], passes: list[float]) -> None:
        """Look at this process."""
        gc.collect()
        self.count.append(count)
        self.resident.append(resident_bytes())
        self.tensors.append(sum(issubclass(type(each), Tensor) for each in gc.get_objects()))
        self.times.append(statistics.median(times))
        self.over_passes.append(self.times[-1] / statistics.median(passes))


def live(form: Form, count: int) -> tuple[dict[str, Any], list[str]]:
    """Consolidate so often; return the figures, and the promises that did not hold."""
    broken: list[str] = []
    kind, dtype, decay = form
    name = f"{kind}, {'bfloat16 omega' if dtype else 'float32'}, {f'decay {decay:g}' if decay < 1 else 'no decay'}"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS))
    named = model.named_parameters()
    optimizer: torch.optim.Optimizer
    if kind == "inside":
        optimizer = inside = si.optim.Adam(named, lr=1e-3, c=0.1, xi=XI, omega_dtype=dtype)
        synapses = inside.synapses
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        synapses = si.SynapticIntelligence(named, optimizer, c=0.1, xi=XI, omega_dtype=dtype)
    watched = {parameter: Watched() for parameter, _ in model.named_parameters()}
    limit = 2.0**-8 if dtype else 1e-5
    samples, finite = Samples(), True
    times: list[float] = []
    passes: list[float] = []
    every = max(1, count // SAMPLES)
    for number in range(1, count + 1):
        target = torch.randn(INPUTS, OUTPUTS) / INPUTS**0.5
        for _ in range(STEPS):
            x = torch.randn(BATCH, INPUTS)
            optimizer.zero_grad()
            began = time.process_time()
            mse_loss(model(x), x @ target).backward()
            passes.append(time.process_time() - began)
            optimizer.step()
        before = {key: omega.clone() for key, omega in synapses.omega.items()}
        moved = {key: p.detach() - synapses.anchor[key] for key, p in model.named_parameters()}
        began = time.process_time()
        path = synapses.consolidate(decay=decay)
        times.append(time.process_time() - began)
        for key, each in watched.items():
            omega = synapses.omega[key]
            finite = finite and bool(omega.isfinite().all())
            each.see(before[key], path[key], moved[key], omega, decay)
            bound = (each.total if decay == 1 else each.largest / (1 - decay)) * (1 + count * limit)
            if float(omega.max()) > bound:
                raise ValueError(f"{name}: omega of {key} is beyond its bound after {number} consolidations")
        if number % every == 0:
            samples.take(number, times, passes)
            times, passes = [], []
    finite = finite and all(bool(p.isfinite().all()) for p in model.parameters())
    right = {key: each.right for key, each in watched.items() if each.right is not None}
    worst = max(each.step_error for each in watched.values())
    if not finite:
        broken.append(f"{name}: a number is not finite")
    if worst > limit:
        broken.append(f"{name}: an omega is off by {worst:.1e}, at most {limit:.1e}")
    late = slice(len(samples.count) // 5, None)
    lines = {
        "resident_bytes": trend(samples.count[late], samples.resident[late]),
        "tensors": trend(samples.count[late], samples.tensors[late]),
        "time": trend(samples.count[late], samples.over_passes[late]),
    }
    mean = statistics.fmean(samples.over_passes[late])
    rise = Trend(*(part * count / mean for part in (lines["time"].slope, lines["time"].half_width)))
    memory = lines["resident_bytes"]
    if memory.slope > BYTES_LIMIT and memory.slope > memory.half_width:
        broken.append(f"{name}: {memory.slope:.0f} bytes more for each consolidation")
    if samples.tensors[late][-1] > samples.tensors[late][0]:
        broken.append(f"{name}: the number of tensors grows")
    if rise.slope > TIME_LIMIT and rise.slope > rise.half_width:
        broken.append(f"{name}: a consolidation takes {100 * rise.slope:.0f} % longer in the end")
    found = {
        "form": name,
        "consolidations": count,
        "finite": finite,
        "worst_error_of_one": worst,
        "error_of_all": max(error(synapses.omega[key], right[key]) for key in right),
        "largest_omega": max(float(omega.max()) for omega in synapses.omega.values()),
        "resident_mb": [samples.resident[late][0] / 1e6, samples.resident[-1] / 1e6],
        "bytes_for_each": [memory.slope, memory.half_width],
        "tensors": [samples.tensors[late][0], samples.tensors[-1]],
        "microseconds": 1e6 * statistics.fmean(samples.times[late]),
        "over_a_pass": mean,
        "time_rise": [rise.slope, rise.half_width],
    }
    return found, broken


def main() -> None:
    """Consolidate, print and write."""
    options = parser(__doc__, "consolidations")
    options.add_argument("--count", type=int, default=10_000)
    given = options.parse_args()
    torch.set_num_threads(1)
    record = Record(f"python stress/consolidations.py --count {given.count}", given.out)
    for form in FORMS:
        row, broken = live(form, given.count)
        record.rows.append(row)
        record.broken += broken
        print(record.rows[-1], flush=True)
        record.write(done=False)
    record.end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
