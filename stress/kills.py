"""kill -9 at random moments, then go on: `python stress/kills.py --kills 50`.

Two kinds of run, each killed so often, over as many runs as it takes:
- the command line: `synaptic run split-mnist` in a short form (2 seeds, 2 strengths, 2 epochs, 100 images a task),
  killed with its whole process group and resumed with --resume. Half of the kills come at a moment drawn evenly over
  the length of a whole run, its start included, the others while a file is being written;
- a user's own loop, which saves weights, optimizer and synapses with torch.save after every fifth step, and the
  importance file; killed at a moment drawn evenly over the length of a whole run.

After every kill, what lies in the folder must be readable and equal, bit for bit, to what a run that was not killed
had there at that epoch or step; a result at the end must equal that of the run that was not killed, but for the times
and where it was made. POSIX only. Writes results/stress-kills.json.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from loop import STEPS, states, train
from record import Record, parser
from torch import Tensor

from synaptic_intelligence.checkpoint import read_importance
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.checkpoint import Checkpoint, checkpoint_path, read_checkpoint
from synaptic_intelligence.experiments.folder import start_run
from synaptic_intelligence.experiments.plan import EpochDone, Message, Plan
from synaptic_intelligence.experiments.runner import run
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.result import Result, read_result

SHORT = ("--seeds", "2", "--c", "0", "--c", "1", "--epochs", "2", "--limit", "100")
NOTHING_YET = "nothing to resume"
DEADLINE = 300.0  # seconds; no run is as long


class PromiseError(Exception):
    """A kill has cost something."""


def same(a: Any, b: Any) -> bool:
    """Return whether two states are equal to the last bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


# The command line.


def numbers(result: Result) -> Any:
    """Return everything in a result but times, and where it was made."""
    runs = [{**dataclasses.asdict(each), "task_seconds": len(each.task_seconds)} for each in result.runs]
    kept = {name: getattr(result, name) for name in ("experiment", "settings", "deviations", "task_names", "chance")}
    return {**kept, "runs": runs}


def without_times(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return everything in a checkpoint but times."""
    content = {each.name: getattr(checkpoint, each.name) for each in dataclasses.fields(checkpoint)}
    record = {**dataclasses.asdict(checkpoint.record), "task_seconds": len(checkpoint.record.task_seconds)}
    return {**content, "record": record, "seconds": None}


def command(out: Path, *, resume: bool) -> list[str]:
    """Return the command line that is killed."""
    words = ["run", "split-mnist", *SHORT, "--workers", "1", "--device", "cpu", "--out", str(out)]
    return [sys.executable, "-m", "synaptic_intelligence.cli", *words, *(["--resume"] if resume else [])]


def whole_run(folder: Path) -> tuple[Result, float, dict[tuple[str, int, int], dict[str, Any]]]:
    """Return the result of a run that nobody kills, its seconds, and every checkpoint by job, task and epoch."""
    began = time.monotonic()
    subprocess.run(command(folder / "whole", resume=False), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    experiment = EXPERIMENTS["split-mnist"]
    settings = dataclasses.replace(experiment.paper, seeds=2, c=(0.0, 1.0), epochs=2, limit=100)
    plan = Plan(experiment, settings, "cpu", 1, None, folder / "watched")
    seen: dict[tuple[str, int, int], dict[str, Any]] = {}

    def keep(message: Message) -> None:
        if isinstance(message, EpochDone):
            path = checkpoint_path(plan.checkpoints, message.job)
            found = read_checkpoint(path)
            assert found is not None
            seen[path.name, found.task, found.epoch] = without_times(found)

    run(plan, start_run(plan, 1, "stress/kills.py", overwrite=False), {}, 1, keep)
    result = read_result(folder / "whole" / "result.json")
    if numbers(read_result(plan.result))["runs"] != numbers(result)["runs"]:
        raise PromiseError("two runs that nobody has killed differ")
    return result, seconds, seen


def half_written(folder: Path) -> Iterator[Path]:
    """Yield the files that are being written, or that a kill has left."""
    yield from folder.glob(".*.part")
    yield from folder.glob("checkpoints/.*.part")


def killed(out: Path, *, resume: bool, after: float, writing: bool) -> tuple[bool, str]:
    """Start or resume a run; kill it so many seconds later, then at the next write if ``writing``.

    Returns:
        Whether it was killed, and not done before; what it said to stderr.
    """
    old = set(half_written(out))
    process = subprocess.Popen(
        command(out, resume=resume),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    began = time.monotonic()
    while process.poll() is None:
        past = time.monotonic() - began
        if past > after and (not writing or set(half_written(out)) - old):
            os.killpg(process.pid, signal.SIGKILL)
            break
        if past > DEADLINE:
            os.killpg(process.pid, signal.SIGKILL)
            raise PromiseError(f"a run did not end within {DEADLINE:g} s")
        if not writing or past < after:
            time.sleep(0.01)
    _, said = process.communicate()
    return process.returncode == -signal.SIGKILL, said


def check(out: Path, seen: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    """Raise an error unless all that lies in the folder of a killed run is whole, and as it should be."""
    if (out / "result.json").exists():
        read_result(out / "result.json")
    for path in out.glob("checkpoints/seed-*.pt"):
        found = read_checkpoint(path)
        assert found is not None
        if not same(without_times(found), seen.get((path.name, found.task, found.epoch))):
            raise PromiseError(f"{path.name} of task {found.task}, epoch {found.epoch} is another than it was")


def command_line(kills: int, rng: random.Random, folder: Path, record: Record) -> dict[str, Any]:
    """Kill and resume the command line; return the figures."""
    reference, seconds, seen = whole_run(folder)
    print(f"a run that nobody kills takes {seconds:.1f} s and writes {len(seen)} checkpoints", flush=True)
    done = runs = writes = at_start = leftovers = most = 0
    while done < kills:
        out, of_this = folder / f"run-{runs}", 0
        while True:
            there = (out / "result.json").exists()
            after, writing = rng.uniform(0, seconds), rng.random() < 0.5 and there and done < kills
            after = after if done < kills else DEADLINE * 2
            was_killed, said = killed(out, resume=there, after=after, writing=writing)
            if not was_killed:
                if said:
                    raise PromiseError(f"the resumed run has failed: {said.strip()}")
                break
            done, of_this, writes = done + 1, of_this + 1, writes + writing
            at_start += not any(out.glob("checkpoints/seed-*.pt"))
            leftovers += any(half_written(out))
            check(out, seen)
            print(f"kill {done} of {kills}: {'while writing' if writing else f'after {after:.1f} s'}", flush=True)
        runs, most = runs + 1, max(most, of_this)
        result = read_result(out / "result.json")
        if numbers(result) != numbers(reference):
            raise PromiseError("the result of a killed run is another than that of one that was not")
        if any(half_written(out)) or (out / "checkpoints").exists() or (out / ".lock").exists():
            raise PromiseError(f"something is left over: {sorted(map(str, out.rglob('*')))}")
        shutil.rmtree(out)
    return {
        "what": "synaptic run split-mnist",
        "kills": done,
        "runs": runs,
        "most_in_one_run": most,
        "before_the_first_checkpoint": at_start,
        "aimed_at_a_write": writes,
        "left_half_a_file": leftovers,
        "compared": "accuracies and every checkpoint: weights, optimizer, synapses, generators",
        "lost": 0,
    }


# A user's own loop.


def started(target: Callable[..., None], *arguments: Any) -> Any:
    """Return a process that runs ``target``, forked from a server that has imported torch already."""
    context = get_context("forkserver")
    # What each child would import anew, with this script; the server does not find what lies beside it.
    context.set_forkserver_preload(
        ["synaptic_intelligence", "synaptic_intelligence.experiments", "scipy.stats", "torch._dynamo"]
    )
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def own_loop(kills: int, rng: random.Random, folder: Path) -> dict[str, Any]:
    """Kill and resume a loop that saves by itself; return the figures."""
    reference = states(folder / "reference")
    started(train, folder / "warm-up").join()
    began = time.monotonic()
    started(train, folder / "whole").join()
    seconds = time.monotonic() - began
    print(f"a loop that nobody kills takes {seconds:.1f} s", flush=True)
    done = runs = most = files = leftovers = 0
    while done < kills:
        out, of_this = folder / f"loop-{runs}", 0
        while True:
            process = started(train, out)
            process.join(rng.uniform(0, seconds) if done < kills else DEADLINE)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            if process.exitcode == 0:
                break
            if process.exitcode != -signal.SIGKILL:
                raise PromiseError(f"the resumed loop has failed with exit code {process.exitcode}")
            done, of_this = done + 1, of_this + 1
            leftovers += any(out.glob(".*.part"))
            files += _check_loop(out, reference)
            print(f"kill {done} of {kills}: at step {_step_of(out)} of {STEPS}", flush=True)
        runs, most = runs + 1, max(most, of_this)
        if not same(torch.load(out / "checkpoint.pt", weights_only=True), reference[STEPS][0]):
            raise PromiseError("the end of a killed loop is another than that of one that was not")
        shutil.rmtree(out)
    return {
        "what": "a loop of one's own",
        "kills": done,
        "runs": runs,
        "most_in_one_run": most,
        "importance_files_read": files,
        "left_half_a_file": leftovers,
        "compared": "weights, optimizer, omega, anchor and path, in the checkpoint and in the importance file",
        "lost": 0,
    }


def _check_loop(out: Path, reference: dict[int, tuple[dict[str, Any], ImportanceFile]]) -> bool:
    if (out / "checkpoint.pt").exists():
        found = torch.load(out / "checkpoint.pt", weights_only=True)
        if not same(found, reference[found["step"]][0]):
            raise PromiseError(f"the checkpoint of step {found['step']} is another than it was")
    path = out / "importance.safetensors"
    if not path.exists():
        return False
    file = read_importance(path)
    kinds = ("omega", "anchor", "path", "tasks", "steps", "c")
    saved = [[getattr(each, kind) for kind in kinds] for _, each in reference.values()]
    if not any(same([getattr(file, kind) for kind in kinds], each) for each in saved):
        raise PromiseError("an importance file is none of those that were saved")
    return True


def _step_of(out: Path) -> int:
    path = out / "checkpoint.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


def main() -> None:
    """Kill, resume, compare, print and write."""
    options = parser(__doc__, "kills")
    options.add_argument("--kills", type=int, default=50, help="of each kind of run")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    record = Record(f"python stress/kills.py --kills {given.kills}", given.out)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            record.rows.append(own_loop(given.kills, rng, folder))
            record.write(done=False)
            record.rows.append(command_line(given.kills, rng, folder, record))
        except Exception as error:
            record.broken.append(f"{type(error).__name__}: {error}")
            shutil.copytree(folder, record.path.with_suffix(""), dirs_exist_ok=True)
    record.end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
