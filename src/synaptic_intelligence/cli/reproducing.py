"""What ``synaptic reproduce`` does: run every experiment of the paper, go on after what fails, and write the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import typer

from synaptic_intelligence.cli.refusal import refuse, refusing
from synaptic_intelligence.cli.studying import StudyRequest, study, study_settings
from synaptic_intelligence.cli.training import Request, train
from synaptic_intelligence.document import ResultError
from synaptic_intelligence.experiments import EXPERIMENTS, STUDIES, Experiment, Study
from synaptic_intelligence.experiments.study import settings_as_json
from synaptic_intelligence.findings import read_findings


@final
@dataclass(frozen=True)
class Reproduction:
    """What the command line asked for.

    Args:
        names: the experiments, by name.
        quick: their quick forms.
        seeds: runs of each method; None: as many as each experiment has by default.
        out: the folder, with one for each experiment in it.
        device, workers, threads, data_dir: as for a single run.
    """

    names: tuple[str, ...]
    quick: bool
    seeds: int | None
    out: Path
    device: str
    workers: int | None
    threads: int
    data_dir: Path | None


def reproduce(asked: Reproduction) -> None:
    """Run what is not done yet, and write ``paper.md``; what cannot run is named at the end, its place left open."""
    failed = []
    for number, name in enumerate(asked.names, 1):
        print(f"\n[{number} of {len(asked.names)}] {name}", flush=True)
        try:
            _run(asked, name)
        except typer.Exit as ended:
            if ended.exit_code == 130:
                typer.echo("synaptic: to go on with all of it, give the same command again", err=True)
                raise
            failed.append(name)
    from synaptic_intelligence.paper.page import write_paper
    from synaptic_intelligence.paper.sections import SECTIONS

    files = {name: _outcome(asked.out / name, name) for name in SECTIONS}
    with refusing(ResultError, OSError):
        found = {name: [file] for name, file in files.items() if file.exists()}
        page, *_ = write_paper(SECTIONS, found, asked.out, results="", quick=asked.quick)
    print(f"\npage    {page}")
    if failed:
        typer.echo(f"synaptic: not all of it could be run: {', '.join(failed)}; why is said above", err=True)
        raise typer.Exit(1)


def default_names() -> tuple[str, ...]:
    """Return every experiment, the short ones first; those whose runs are another's are left to that one."""
    from synaptic_intelligence.paper.sections import SECTIONS

    return tuple(name for name in (*STUDIES, *EXPERIMENTS) if SECTIONS[name].runs_of is None)


def _run(asked: Reproduction, name: str) -> None:
    changes: dict[str, Any] = {} if asked.seeds is None else {"seeds": asked.seeds}
    if name in STUDIES:
        _study(asked, STUDIES[name], changes)
    else:
        _train(asked, EXPERIMENTS[name], changes)


def _study(asked: Reproduction, chosen: Study, changes: dict[str, Any]) -> None:
    folder, file = asked.out / chosen.name, _outcome(asked.out / chosen.name, chosen.name)
    with refusing(ValueError):
        settings = study_settings(chosen, asked.quick, changes)
        request = StudyRequest(chosen, settings, asked.quick, asked.threads, asked.data_dir, folder, overwrite=False)
    if not file.exists():
        study(request)
        return
    with refusing(ResultError, OSError):
        found = read_findings(file)
    if found.settings != settings_as_json(settings):
        refuse(f"{file} was made with other settings: reproduce elsewhere with --out, or remove it")
    print(f"{file} is there already.")


def _train(asked: Reproduction, experiment: Experiment, changes: dict[str, Any]) -> None:
    folder = asked.out / experiment.name
    with refusing(ValueError):
        request = Request(
            experiment=experiment,
            settings=replace(experiment.quick if asked.quick else experiment.paper, **changes),
            device=asked.device,
            workers=asked.workers,
            threads=asked.threads,
            data_dir=asked.data_dir,
            out=folder,
            resume=_outcome(folder, experiment.name).exists(),
            overwrite=False,
        )
    train(request)


def _outcome(folder: Path, name: str) -> Path:
    return folder / ("result.json" if name in EXPERIMENTS else "findings.json")
