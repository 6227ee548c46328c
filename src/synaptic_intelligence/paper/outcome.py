"""An outcome is a result of tasks or the findings of a study: read either, and say how it was made."""

from __future__ import annotations

import math
from pathlib import Path

from synaptic_intelligence.document import ResultError, read_document
from synaptic_intelligence.experiments import STUDIES
from synaptic_intelligence.experiments.method import Method
from synaptic_intelligence.findings import Findings, read_findings
from synaptic_intelligence.report.wording import study_warnings, warnings
from synaptic_intelligence.result import Result, Run, read_result

Outcome = Result | Findings
"""What an experiment leaves."""


def read_outcome(path: Path) -> Outcome:
    """Read a result file or a findings file, whichever it is.

    Raises:
        ResultError: it is neither, or damaged, or the experiment that it names leaves the other kind; the message
            names the file and the problem.
        OSError: the file cannot be opened.
    """
    value = read_document(path).value
    kind = value.get("format") if isinstance(value, dict) else None
    if kind == "synaptic-intelligence findings":
        findings = read_findings(path)
        if findings.experiment not in STUDIES:
            raise ResultError(
                f"{path}: findings of {findings.experiment!r}, but this version of synaptic-intelligence has no study "
                f"{findings.experiment!r}; there are: {', '.join(STUDIES)}"
            )
        return findings
    result = read_result(path)
    if result.experiment in STUDIES:
        raise ResultError(f"{path}: a result of tasks, but {result.experiment!r} is a study, which leaves findings")
    return result


def said_of(outcome: Outcome) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    return warnings(outcome) if isinstance(outcome, Result) else study_warnings(outcome)


def protocol_said(result: Result) -> str:
    """Say in a paragraph which network learnt, how it began, and how it was trained; nothing of a result without that.

    How a rival differs is told elsewhere.
    """
    names = ("network", "initialisation", "optimizer", "lr", "batch_size", "epochs", "xi")
    network, initialisation, optimizer, lr, batch, epochs, xi = (result.settings.get(name) for name in names)
    if None in (network, initialisation, optimizer, lr, batch, epochs, xi):
        return ""
    return (
        f"Network: {network}. {initialisation}. {optimizer}; learning rate {lr}; batches of {batch}; {epochs} "
        f"epoch{'s'[: epochs != 1]} of each task; xi = {xi}.\n\n"
    )


def made(outcome: Outcome, main: Outcome | None = None) -> str:
    """Say by which command, in what time, where and from which commit an outcome was made.

    Runs side by side take less time by the clock than their training takes together. A first task that was taken over
    from the main result, which stands beside, is said to be, and its time is left out.
    """
    where = outcome.environment
    device = f"{where.get('device_name') or where.get('device')}, torch {where.get('torch')}"
    took = _time(outcome.wall_seconds)
    if isinstance(outcome, Result) and outcome.runs:
        taken = _first_tasks(outcome) & _first_tasks(main) if isinstance(main, Result) else set()
        known = outcome.wall_seconds >= _longest_chain(outcome, taken)
        clock = f"{took} by the clock" if known else "the clock of an earlier sitting is lost"
        # A run that was extended may have trained one of its own as well.
        own = ", one of its own included" if _first_tasks(outcome) - taken else ""
        after = f" after the main result's first task{own}" if taken else ""
        took = f"{_time(_training_seconds(outcome, taken))} of training{after} ({clock})"
    resumed = where.get("resumed")
    later = [sitting for sitting in resumed if isinstance(sitting, dict)] if isinstance(resumed, list) else []
    pauses = f", resumed {len(later)} time{'s'[: len(later) != 1]}" if later else ""
    found = [git for sitting in [where, *later] if isinstance(git := sitting.get("git"), dict)]
    commits = dict.fromkeys(str(git["commit"])[:7] for git in found if git.get("commit"))
    of = f", commit{'s'[: len(commits) != 1]} {', '.join(commits)}" if commits else ""
    of += " with changes that were not committed" if any(git.get("changed") for git in found) else ""
    before = [f"`{sitting['extended']}`" for sitting in later if "extended" in sitting]
    more = f", which extended {' and '.join(before)}" if before else ""
    return f"`{outcome.command}`{more}, {took} on {device}{of}{pauses}"


_FirstTask = tuple[int, float]  # the seed, and how long it took to the last digit, which tells it from others


def _first_tasks(result: Result) -> set[_FirstTask]:
    """Return the first tasks that methods share; of a run that was extended, a seed may have several."""
    return {(run.seed, run.task_seconds[0]) for run in result.runs if run.task_seconds and _shares_first_task(run)}


def _training_seconds(result: Result, taken: set[_FirstTask]) -> float:
    """Return the time that all runs took to train; a first task that methods share was trained once."""
    shared = [seconds for _, seconds in _first_tasks(result) - taken]
    own = [seconds for run in result.runs for seconds in run.task_seconds[_shares_first_task(run) :]]
    return math.fsum([*shared, *own])


def _longest_chain(result: Result, taken: set[_FirstTask]) -> float:
    """Return how long the longest run took, which no workers side by side can make shorter."""
    return max(
        sum(run.task_seconds[(run.seed, *run.task_seconds[:1]) in taken and _shares_first_task(run) :])
        for run in result.runs
    )


def _shares_first_task(run: Run) -> bool:
    return Method(run.method, run.c).shares_first_task


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.1f} seconds"
    return f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{minutes:.1f} minutes"
