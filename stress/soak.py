"""An hour of training with everything that a long life has: `python stress/soak.py --hours 1`.

Four forms of synapses take turns on a stream of tasks that never ends: hooks around Adam, the compiled optimizer with
synapses inside, the same with omega in bfloat16, and Fisher information. Each task ends with a consolidation, a
checkpoint (torch.save) and an importance file, both written over the old ones. Then the synapses go on in turns with a
fresh optimizer, and in new objects that load what was saved. Every minute: memory, open files, live tensors, and the
time of a step.

Growth is, over the second half: a straight line through the memory that rises (its 95 % interval lies above zero) by
more than 1 % of the mean; one through the time of a step, over that of a step of plain torch.optim.Adam in the same
minute, that rises by more than 10 %; more open files or live tensors than in the first half. Linux only. Writes
results/stress-soak.json as it goes.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import torch
from record import Record, open_files, parser, resident_bytes, trend
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import synaptic_intelligence as si
from synaptic_intelligence.atomic import replacing

INPUTS, HIDDEN, CLASSES, BATCH, STEPS = 64, 128, 10, 64, 100
FORMS = ("hooks", "inside", "inside, bfloat16 omega", "Fisher")
MEMORY_LIMIT, TIME_LIMIT = 0.01, 0.10  # of the mean


def batches(task: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a task: ten clouds of points, elsewhere in each task."""
    generator = torch.Generator().manual_seed(task)
    centres = torch.randn(CLASSES, INPUTS, generator=generator)
    for _ in range(count):
        targets = torch.randint(CLASSES, (BATCH,), generator=generator)
        yield centres[targets] + torch.randn(BATCH, INPUTS, generator=generator), targets


def network() -> nn.Module:
    """Return the network as it is before it has learnt."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )


def timed_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Take a step, and return its CPU seconds."""
    began = time.process_time()
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()
    return time.process_time() - began


@final
class Learner:
    """A network, its optimizer and its synapses, in one of the forms."""

    def __init__(self, form: str, folder: Path) -> None:
        self.form, self.folder, self.task = form, folder, 0
        self.make()

    def make(self) -> None:
        """Make all of it anew."""
        self.model = network()
        named, self.optimizer = self.model.named_parameters(), self._optimizer(None)
        if isinstance(self.optimizer, si.optim.Adam):
            self.synapses = self.optimizer.synapses
        elif self.form == "hooks":
            self.synapses = si.SynapticIntelligence(named, self.optimizer, c=0.01, xi=1e-3)
        else:
            fisher = si.Fisher(self.model, cross_entropy, kind="empirical")
            self.synapses = si.Consolidator(named, self.optimizer, fisher, c=0.01)

    def _optimizer(self, synapses: si.Consolidator | None) -> torch.optim.Optimizer:
        if not self.form.startswith("inside"):
            return torch.optim.Adam(self.model.parameters(), lr=1e-3)
        coarse = torch.bfloat16 if "bfloat16" in self.form else None
        named = self.model.named_parameters()
        return si.optim.Adam(named, lr=1e-3, c=0.01, xi=1e-3, synapses=synapses, omega_dtype=coarse)

    def learn(self) -> list[float]:
        """Learn one task, consolidate, save, and go on anew; return the CPU seconds of each step."""
        seconds = [timed_step(self.model, self.optimizer, x, y) for x, y in batches(self.task, STEPS)]
        self.synapses.consolidate(list(batches(self.task, 2)) if self.form == "Fisher" else None)
        self.save()
        self.task += 1
        if self.task % 2:
            self.attach()
        else:
            self.make()
            self.load()
        return seconds

    def save(self) -> None:
        """Write the checkpoint and the importance file over the old ones."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        with replacing(self.folder / "checkpoint.pt") as temporary:
            torch.save({**state, "synapses": self.synapses.state_dict()}, temporary)
        self.synapses.save(self.folder / "importance.safetensors")

    def load(self) -> None:
        """Take over what was saved, and check the file beside it."""
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.synapses.load_state_dict(state["synapses"])
        self.synapses.load(self.folder / "importance.safetensors")

    def attach(self) -> None:
        """Go on with a fresh optimizer."""
        if self.form.startswith("inside"):
            self.optimizer = self._optimizer(self.synapses)
            assert isinstance(self.optimizer, si.optim.Adam)
            self.synapses = self.optimizer.synapses
        else:
            self.optimizer = self._optimizer(None)
            self.synapses.attach(self.optimizer)

    def finite(self) -> bool:
        """Return whether every number is."""
        tensors = [*self.model.parameters(), *self.synapses.omega.values(), *self.synapses.anchor.values()]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)


def plain_steps(task: int) -> list[float]:
    """Return the CPU seconds of steps without synapses; what else the machine does falls on them too."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return [timed_step(model, optimizer, x, y) for x, y in batches(task, STEPS)]


def sample(seconds_in: float, learners: Sequence[Learner], times: dict[str, list[float]]) -> dict[str, Any]:
    """Return what this process holds now, and how long steps took since the last sample."""
    gc.collect()
    held = gc.get_objects()
    plain = statistics.median(times["plain"])
    return {
        "minutes": seconds_in / 60,
        "tasks": sum(learner.task for learner in learners),
        "resident_mb": resident_bytes() / 1e6,
        "open_files": open_files(),
        # By type, as isinstance asks objects for their class, which some answer with a warning.
        "tensors": sum(issubclass(type(each), Tensor) for each in held),
        "plain_step_microseconds": 1e6 * plain,
        "step_over_plain": {form: statistics.median(times[form]) / plain for form in FORMS},
    }


def growth(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return how much each quantity grew over the second half of the samples, and what grew beyond its limit."""
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    minutes = [row["minutes"] for row in second]
    span = minutes[-1] - minutes[0]
    found: dict[str, Any] = {}
    broken = []
    series = {"resident_mb": ([row["resident_mb"] for row in second], MEMORY_LIMIT)} | {
        f"step, {form}": ([row["step_over_plain"][form] for row in second], TIME_LIMIT) for form in FORMS
    }
    for name, (values, limit) in series.items():
        line, mean = trend(minutes, values), statistics.fmean(values)
        rise, half = line.slope * span / mean, line.half_width * span / mean
        found[name] = {"mean": mean, "rise": rise, "rise_interval": [rise - half, rise + half], "limit": limit}
        if rise > limit and rise > half:
            broken.append(f"{name} rose by {100 * rise:.2f} % over the second half, at most {100 * limit:g} %")
    for name in ("open_files", "tensors"):
        most = [max(row[name] for row in half) for half in (first, second)]
        found[name] = {"first_half": most[0], "second_half": most[1]}
        if most[1] > most[0]:
            broken.append(f"{name}: {most[1]} in the second half, {most[0]} in the first")
    return found, broken


def soak(hours: float, every: float, record: Record, folder: Path) -> None:
    """Train for so long; a sample every so many seconds goes to the record."""
    learners = []
    for form in FORMS:
        own = folder / form.replace(" ", "-").replace(",", "")
        own.mkdir()
        learners.append(Learner(form, own))
    began = last = time.monotonic()
    times: dict[str, list[float]] = {form: [] for form in (*FORMS, "plain")}
    while time.monotonic() - began < hours * 3600 or len(record.rows) < 6:
        for _ in range(2):  # with a fresh optimizer, and in new objects
            for learner in learners:
                times[learner.form] += learner.learn()
            times["plain"] += plain_steps(learners[0].task)
        # Optimizers of torch are cycles: without this the memory would tell when Python last looked for those.
        gc.collect()
        if time.monotonic() - last >= every:
            last = time.monotonic()
            record.rows.append(sample(last - began, learners, times))
            record.broken = [f"{each.form}: a number is not finite" for each in learners if not each.finite()]
            record.write(done=False)
            print(record.rows[-1], flush=True)
            times = {form: [] for form in times}
            if record.broken:
                return


def main() -> None:
    """Soak, print and write."""
    options = parser(__doc__, "soak")
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--sample", type=float, default=60.0, help="seconds between two samples")
    given = options.parse_args()
    torch.set_num_threads(1)
    record = Record(f"python stress/soak.py --hours {given.hours:g}", given.out)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        soak(given.hours, given.sample, record, folder)
    if record.broken:
        record.end()
    grown, record.broken = growth(record.rows)
    tasks, hours = record.rows[-1]["tasks"], record.rows[-1]["minutes"] / 60
    record.rows = [{"hours": hours, "tasks": tasks, "steps": tasks * STEPS, "grown": grown, "samples": record.rows}]
    record.end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
