"""Worker processes: side by side, interrupted, killed, orphaned and failing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.folder import resume_run, start_run
from synaptic_intelligence.experiments.lock import alone_in
from synaptic_intelligence.experiments.plan import EpochDone, Job, Message, Plan
from synaptic_intelligence.experiments.runner import default_workers, run
from synaptic_intelligence.experiments.workers import JobError, run_in_workers
from synaptic_intelligence.result import Result

SPLIT_MNIST = EXPERIMENTS["split-mnist"]
# 9 tasks of 6 short epochs: a second or more, with time to stop it several times.
SETTINGS = replace(SPLIT_MNIST.paper, seeds=1, epochs=6, limit=100)
WORDS = ["run", "split-mnist", "--seeds", "1", "--epochs", "6", "--limit", "100", "--workers", "2", "--out"]


def _plan(out: Path) -> Plan:
    return Plan(SPLIT_MNIST, SETTINGS, device="cpu", threads=1, data_dir=None, out=out)


def _start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "synaptic_intelligence.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _workers(parent: int) -> list[int]:
    """The processes that train: children of ``parent``, without multiprocessing's own helper."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent and "spawn_main" in command:
            found.append(int(folder.name))
    return found


def _wait_for_checkpoint(out: Path, process: subprocess.Popen[str], since: float) -> None:
    """Wait until a checkpoint is written, and a little longer, so that the stop may come at any point."""
    deadline = time.monotonic() + 60
    while not any(path.stat().st_mtime > since for path in (out / "checkpoints").glob("*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        time.sleep(0.005)
    time.sleep(random.SystemRandom().uniform(0.0, 0.1))


def _assert_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(_alive(process) for process in processes):
        assert time.monotonic() < deadline, f"still there: {processes}"
        time.sleep(0.01)


def _alive(process: int) -> bool:
    try:
        # A zombie has ended; that nobody has asked for its exit code does no harm.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _ignore(message: Message) -> None:
    pass


def _numbers(result: Result) -> list[object]:
    return [
        (r.seed, r.method, r.c, r.accuracy, r.baseline, r.train_accuracy, r.final_train_accuracy) for r in result.runs
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
def test_interrupted_and_killed_again_and_again_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    out = tmp_path / "run"

    # Ctrl-C reaches every process of the terminal's foreground group.
    now = time.time()
    process = _start(*WORDS, str(out))
    _wait_for_checkpoint(out, process, now)
    workers = _workers(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (
        130,
        f"synaptic: stopped. What is done is kept; go on with\n    synaptic {' '.join(WORDS)} {out} --resume\n",
    )
    assert len(workers) == 2
    _assert_gone(workers)

    # The parent is killed: its workers must not write on beside those of the next run.
    now = time.time()
    process = _start(*WORDS, str(out), "--resume")
    _wait_for_checkpoint(out, process, now)
    workers = _workers(process.pid)
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert len(workers) == 2
    _assert_gone(workers)

    # One worker is killed, as by a system that runs out of memory.
    def kill_one(message: Message) -> None:
        if isinstance(message, EpochDone):
            multiprocessing.active_children()[0].kill()

    plan = _plan(out)
    # The folder was the killed run's; now it is free.
    with alone_in(out):
        with pytest.raises(JobError, match=r"^(seed 0, .*|no job): worker \d died by signal 9 \(SIGKILL\)"):
            run(plan, *resume_run(plan, 2), 2, kill_one)
        assert multiprocessing.active_children() == []
        resumed = run(plan, *resume_run(plan, 1), 1, _ignore)
    assert [path.name for path in out.iterdir()] == ["result.json"]

    # The same in one go, and in one process: how many there are does not matter either.
    plan = _plan(tmp_path / "whole")
    whole = run(plan, start_run(plan, 1, "synaptic run split-mnist", overwrite=False), {}, 1, _ignore)
    assert resumed.complete
    assert _numbers(resumed) == _numbers(whole)


def test_an_error_in_a_worker_is_told_with_its_cause(tmp_path: Path) -> None:
    plan = replace(_plan(tmp_path / "run"), data_dir=tmp_path)
    with pytest.raises(JobError, match=r"^seed 0, first task: DataError: MNIST cannot be loaded from ") as caught:
        run_in_workers(plan, [Job(0, None)], 1, _ignore)
    assert "in load_mnist" in caught.value.details
    assert multiprocessing.active_children() == []


def test_without_being_asked_a_short_run_has_one_process_and_a_long_one_as_many_as_cores_and_runs() -> None:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert all(default_workers(experiment.quick, "cpu") == 1 for experiment in EXPERIMENTS.values())
    assert default_workers(SPLIT_MNIST.paper, "cpu") == min(cores, 20)
    assert default_workers(replace(SPLIT_MNIST.paper, seeds=1, c=(0.0,)), "cpu") == 1
