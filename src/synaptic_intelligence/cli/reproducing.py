"""What ``synaptic reproduce`` does: run every experiment of the paper, go on after what fails, and write the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import typer

from synaptic_intelligence.cli.refusal import refuse, refusing, refusing_settings, sentence
from synaptic_intelligence.cli.reporting import compared
from synaptic_intelligence.cli.studying import StudyRequest, study, study_settings
from synaptic_intelligence.cli.training import Request, train
from synaptic_intelligence.document import ResultError
from synaptic_intelligence.experiments import EXPERIMENTS, STUDIES, Experiment, Study
from synaptic_intelligence.experiments.folder import RefusedError
from synaptic_intelligence.experiments.study import settings_as_json
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.result import Result


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
    from synaptic_intelligence.paper.page import write_paper
    from synaptic_intelligence.paper.sections import SECTIONS

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
    found: dict[str, list[Path]] = {}
    for name in SECTIONS:
        file = _outcome(asked.out / name, name)
        try:
            if _shows_something(file, name):
                found[name] = [file]
        except (ResultError, OSError) as error:
            if name not in failed:
                typer.echo(f"synaptic: {sentence(error)} {_anew(file.parent)}", err=True)
                failed.append(name)
    with refusing(ResultError, OSError):
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
    folder = asked.out / name
    file = _outcome(folder, name)
    try:
        before = _read(file, name) if file.exists() else None
        if name in STUDIES:
            _study(asked, STUDIES[name], before)
        else:
            _train(asked, EXPERIMENTS[name], before)
    except RefusedError as error:
        # Its way out is in options that this command does not have.
        refuse(f"{error.problem} {_anew(folder)}" if error.way_out else error.problem)
    except (ResultError, OSError) as error:
        refuse(f"{sentence(error)} {_anew(folder)}")


def _study(asked: Reproduction, chosen: Study, before: Result | Findings | None) -> None:
    changes: dict[str, Any] = {} if asked.seeds is None or not chosen.seeded else {"seeds": asked.seeds}
    folder = asked.out / chosen.name
    with refusing_settings():
        settings = study_settings(chosen, asked.quick, changes)
        request = StudyRequest(chosen, settings, asked.quick, asked.threads, asked.data_dir, folder, overwrite=False)
    if before is None:
        study(request)
        return
    if before.settings != settings_as_json(settings):
        refuse(f"{_outcome(folder, chosen.name)} was made with other settings. {_anew(folder)}")
    print(f"{_outcome(folder, chosen.name)} is there already.")


def _train(asked: Reproduction, experiment: Experiment, before: Result | Findings | None) -> None:
    changes: dict[str, Any] = {} if asked.seeds is None else {"seeds": asked.seeds}
    settings = replace(experiment.quick if asked.quick else experiment.paper, **changes)
    had = before.settings.get("seeds") if before is not None else None
    more = isinstance(had, int) and had < settings.seeds
    with refusing_settings():
        request = Request(
            experiment=experiment,
            settings=settings,
            device=asked.device,
            workers=asked.workers,
            threads=asked.threads,
            data_dir=asked.data_dir,
            out=asked.out / experiment.name,
            resume=before is not None and not more,
            extend=more,
            overwrite=False,
        )
    train(request)


def _shows_something(file: Path, name: str) -> bool:
    """Whether an experiment has left an outcome that can be shown: findings, or a run that is complete.

    Raises:
        ResultError: the file is damaged.
        OSError: it cannot be opened.
    """
    if not file.exists():
        return False
    outcome = _read(file, name)
    if isinstance(outcome, Result) and not outcome.complete_runs:
        return False
    compared(outcome, file)
    return True


def _read(file: Path, name: str) -> Result | Findings:
    from synaptic_intelligence.paper.outcome import read_outcome

    outcome = read_outcome(file)
    if outcome.experiment != name:
        raise ResultError(f"{file}: of {outcome.experiment!r}, where that of {name!r} belongs")
    return outcome


def _anew(folder: Path) -> str:
    return f"To start it anew, remove or rename {folder}; or reproduce elsewhere with --out"


def _outcome(folder: Path, name: str) -> Path:
    return folder / ("result.json" if name in EXPERIMENTS else "findings.json")
