"""What ``synaptic run`` does with a study: compute it, write what it found, and show it."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from synaptic_intelligence.cli.machine import check_machine
from synaptic_intelligence.cli.refusal import refusing, stop
from synaptic_intelligence.cli.reporting import report
from synaptic_intelligence.data import DataError
from synaptic_intelligence.experiments import Study
from synaptic_intelligence.experiments.folder import RefusedError
from synaptic_intelligence.experiments.lock import alone_in
from synaptic_intelligence.experiments.settings import option
from synaptic_intelligence.experiments.study import StudySettings, run_study, study_deviations
from synaptic_intelligence.findings import write_findings


@final
@dataclass(frozen=True)
class StudyRequest:
    """What the command line asked for, checked.

    Raises:
        ValueError: a value makes no sense on this machine.
    """

    study: Study
    settings: StudySettings
    quick: bool
    threads: int
    data_dir: Path | None
    out: Path | None
    overwrite: bool

    def __post_init__(self) -> None:
        check_machine(self.threads, self.data_dir, self.out)

    @property
    def folder(self) -> Path:
        """Where the findings go."""
        return self.out or Path("runs") / self.study.name

    @property
    def command(self) -> str:
        """The command that gives the same numbers, without the folders of this machine."""
        words = ["synaptic", "run", self.study.name, *(["--quick"] if self.quick else [])]
        standard = self.study.quick if self.quick else self.study.settings
        words += ["--seeds", str(self.settings.seeds)] if self.settings.seeds != standard.seeds else []
        words += ["--threads", str(self.threads)] if self.threads != 1 else []
        return shlex.join(words)

    @property
    def again(self) -> str:
        """The command that asks for the same once more."""
        words = ["--data-dir", str(self.data_dir)] if self.data_dir else []
        words += ["--out", str(self.out)] if self.out else []
        words += ["--overwrite"] if self.overwrite else []
        return shlex.join([*shlex.split(self.command), *words])


def study(request: StudyRequest) -> None:
    """Compute the study, and show what came of it; files are written when that is done.

    Raises:
        RefusedError: the folder holds findings already, or another run is at work in it.
    """
    path = request.folder / "findings.json"
    if path.exists() and not request.overwrite:
        way_out = "Replace them with --overwrite, or write elsewhere with --out"
        raise RefusedError(f"{request.folder} holds findings already.", way_out)
    began = time.monotonic()
    seeds = f"{request.settings.seeds} seed{'s'[: request.settings.seeds != 1]}"
    seeds = seeds if request.study.seeded else "nothing is random"
    print(f"{request.study.title} ({request.study.source} of the paper): {seeds}; cpu, one process")
    if different := study_deviations(request.study, request.settings):
        print(f"Not the study as it is meant: {'; '.join(different)}")

    def listen(what: str) -> None:
        # Not through rich, which would break the lines.
        print(f"{what}; {time.monotonic() - began:.0f} s so far", flush=True)

    kept = f"A study is computed in one go: nothing of it is kept. Start again with\n    {request.again}"
    threads = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        with refusing(DataError, OSError):
            request.folder.mkdir(parents=True, exist_ok=True)
            with alone_in(request.folder):
                findings = run_study(
                    request.study, request.settings, request.data_dir, request.threads, request.command, listen
                )
                write_findings(findings, path)
                shows = shlex.join(["synaptic", "report", str(request.folder)])
                kept = f"The findings are kept; show them with\n    {shows}"
                report(findings, path, request.folder)
    except KeyboardInterrupt:
        stop(kept)
    finally:
        torch.set_num_threads(threads)


def study_settings(study: Study, quick: bool, given: dict[str, Any]) -> StudySettings:
    """Return the settings of a study, with the number of seeds that was ``given``.

    Raises:
        ValueError: something was given that this study does not have; or fewer than one seed.
    """
    own = ["seeds"] if study.seeded else []
    foreign = [option(name) for name in given if name not in own]
    if foreign:
        takes = ", ".join([*(f"--{name}" for name in own), "--quick", "--threads"])
        raise ValueError(f"{study.name} has no {', '.join(foreign)}: it takes {takes} and the folders alone")
    settings: Any = study.quick if quick else study.settings
    seeds = given.get("seeds", settings.seeds)
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more, not {seeds}")
    changed: StudySettings = replace(settings, seeds=seeds)
    return changed
