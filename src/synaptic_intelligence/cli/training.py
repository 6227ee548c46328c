"""What ``synaptic run`` does: open the folder, train with progress, report, and say how to go on after a stop."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

import typer
from rich.console import Console

from synaptic_intelligence.cli.machine import check_machine, check_workers, existing_device
from synaptic_intelligence.cli.progress import show_progress
from synaptic_intelligence.cli.refusal import fail, refusing, refusing_settings, sentence, stop
from synaptic_intelligence.cli.reporting import report
from synaptic_intelligence.data import DataError
from synaptic_intelligence.document import exact
from synaptic_intelligence.experiments import Experiment
from synaptic_intelligence.experiments.checkpoint import CheckpointError
from synaptic_intelligence.experiments.folder import BEFORE, resume_run, start_run
from synaptic_intelligence.experiments.lock import alone_in
from synaptic_intelligence.experiments.plan import Job, Plan, Record
from synaptic_intelligence.experiments.runner import default_workers, run
from synaptic_intelligence.experiments.settings import Settings, flags
from synaptic_intelligence.experiments.workers import JobError
from synaptic_intelligence.result import Result
from synaptic_intelligence.tasks import Stream


@final
@dataclass(frozen=True)
class Request:
    """What the command line asked for, checked.

    Raises:
        ValueError: a value makes no sense, or does not exist on this machine.
    """

    experiment: Experiment
    settings: Settings
    device: str
    workers: int | None
    threads: int
    data_dir: Path | None
    out: Path | None
    resume: bool
    extend: bool
    overwrite: bool

    def __post_init__(self) -> None:
        most = self.experiment.most_tasks
        if most is not None and self.settings.tasks > most:
            raise ValueError(f"--tasks must be at most {most} in {self.experiment.name}, not {self.settings.tasks}")
        if self.settings.keep_step_count and not self.experiment.fresh_optimizer:
            raise ValueError(
                f"--keep-step-count makes no sense in {self.experiment.name}: one optimizer goes through all its tasks"
            )
        if self.resume + self.extend + self.overwrite > 1:
            raise ValueError(
                "--resume goes on with a run, --extend adds to one, and --overwrite replaces it: give one of them"
            )
        check_workers(self.workers)
        check_machine(self.threads, self.data_dir, self.out)
        existing_device(self.device)

    @property
    def plan(self) -> Plan:
        """What to train, and where."""
        out = self.out or Path("runs") / self.experiment.name
        device = existing_device(self.device)
        return Plan(self.experiment, self.settings, device, self.threads, self.data_dir, out)

    @property
    def command(self) -> str:
        """The command that gives the same numbers, without the folders of this machine."""
        words = ["synaptic", "run", self.experiment.name, *flags(self.settings, self.experiment.paper)]
        words += ["--device", self.device] if self.device != "auto" else []
        words += ["--threads", str(self.threads)] if self.threads != 1 else []
        return shlex.join(words)

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        words = ["--workers", str(self.workers)] if self.workers is not None else []
        words += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        words += ["--out", str(self.out)] if self.out else []
        return shlex.join([*shlex.split(self.command), *words, "--resume"])


def train(request: Request) -> None:
    """Run the experiment to its end, and show what came of it.

    Raises:
        RefusedError: the folder holds something else.
    """
    plan = request.plan
    workers = default_workers(plan.settings, plan.device) if request.workers is None else request.workers
    with ExitStack() as held:
        try:
            with refusing(DataError, OSError):
                # Before anything is made or replaced: without its data a run cannot even begin.
                with refusing_settings():
                    sizes, loaded = _load(plan, workers)
                result, records = _open(request, plan, workers, held)
        except KeyboardInterrupt:
            stop("Nothing was trained; start with the same command again")
        try:
            if result.complete:
                print(f"The run in {plan.out} is complete: nothing is left to train.")
            else:
                _print_header(plan, result, workers)
                (plan.out / "error.txt").unlink(missing_ok=True)
                with show_progress(plan, records, Console(), sizes) as listen:
                    result = run(plan, result, records, workers, listen, loaded)
            report(result, plan.result, plan.out)
        except KeyboardInterrupt:
            stop(_way_on(request))
        except JobError as error:
            way_on = _other_settings(plan) if error.diverged else _way_on(request)
            fail(f"{sentence(error)}{_keep(error.details, plan.out / 'error.txt')} {way_on}")
        except OSError as error:
            fail(f"{plan.out}: {sentence(error)} {_way_on(request)}")


def _load(plan: Plan, workers: int) -> tuple[list[int], Stream | None]:
    """Return how many training images each task has, and the tasks, unless workers are to load their own."""
    stream = plan.load()
    return [len(task.train_targets) for task in stream], stream if workers < 2 else None


def _open(request: Request, plan: Plan, workers: int, held: ExitStack) -> tuple[Result, dict[Job, Record]]:
    """Return the result to go on from and what its jobs have measured; the folder is this run's until ``held`` ends."""
    begins = not (request.resume or request.extend)
    if begins:
        plan.out.mkdir(parents=True, exist_ok=True)
    if plan.out.is_dir():
        held.enter_context(alone_in(plan.out))
    if begins:
        return start_run(plan, workers, request.command, overwrite=request.overwrite), {}
    try:
        return resume_run(plan, workers, request.command if request.extend else None)
    except CheckpointError as error:
        fail(str(error))


def _keep(details: str, path: Path) -> str:
    """Write a traceback to ``path``, else to stderr, and say so."""
    if not details:
        return ""
    try:
        path.write_text(details, "utf-8")
    except OSError:
        typer.echo(details, err=True)
        return ""
    return f" The traceback is in {path}."


def _print_header(plan: Plan, result: Result, workers: int) -> None:
    settings = plan.settings
    strengths = " and ".join(exact(c) for c in settings.c) if len(settings.c) < 3 else f"{len(settings.c)} values"
    seeds = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    processes = f"{workers} processes side by side" if workers > 1 else "one process"
    print(
        f"{result.title} ({plan.experiment.source} of the paper): {seeds}, c = {strengths}; {plan.device}, {processes}"
    )
    if result.deviations:
        print(f"Not the paper's protocol: {'; '.join(result.deviations)}")


def _other_settings(plan: Plan) -> str:
    diverged = (
        "The training has diverged, and would again: choose other settings (a smaller --lr or --c, a larger --xi)"
    )
    if (plan.out / BEFORE).exists():
        return f"{diverged}. The run as it was before it was extended is kept: mv {plan.out / BEFORE} {plan.result}"
    return f"{diverged}, and start anew with --overwrite"


def _way_on(request: Request) -> str:
    return f"What is done is kept; go on with\n    {request.resume_command}"
