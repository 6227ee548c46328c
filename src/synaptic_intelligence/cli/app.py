"""The commands of ``synaptic``, and their options."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from synaptic_intelligence.cli.importance_files import inspect_file, merge_files
from synaptic_intelligence.cli.machine import check_machine, check_workers, existing_device
from synaptic_intelligence.cli.refusal import refuse, refusing, refusing_settings
from synaptic_intelligence.cli.reporting import report
from synaptic_intelligence.cli.reproducing import Reproduction, default_names, reproduce
from synaptic_intelligence.cli.studying import StudyRequest, study, study_settings
from synaptic_intelligence.cli.training import Request, train
from synaptic_intelligence.document import ResultError
from synaptic_intelligence.experiments import EXPERIMENTS, STUDIES, Experiment, Study
from synaptic_intelligence.experiments.folder import RefusedError
from synaptic_intelligence.version import __version__

_EXAMPLES = """[bold]Examples[/bold]

synaptic list

synaptic run split-mnist

synaptic run split-mnist --seeds 3 --c 0 --c 0.1 --c 1 --out runs/strengths

synaptic run split-mnist --resume

synaptic run split-mnist --seeds 20 --extend

synaptic report runs/split-mnist

synaptic reproduce --quick
"""

_FILE_EXAMPLES = """[bold]Examples[/bold]

synaptic inspect one.safetensors

synaptic merge one.safetensors two.safetensors --c 0.1 --c 1 --out both.safetensors
"""

_OUTCOMES = ("result.json", "findings.json")

app = typer.Typer(
    name="synaptic",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"synaptic-intelligence {__version__}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def _synaptic(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Train networks that learn new tasks without forgetting old ones."""


@app.command("list")
def _list() -> None:
    """List the experiments."""
    table = Table("name", "what is learnt", "in the paper", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    every: list[Experiment | Study] = [*EXPERIMENTS.values(), *STUDIES.values()]
    for experiment in every:
        table.add_row(experiment.name, experiment.what, experiment.source)
    Console().print(table)


_SETTINGS, _MACHINE, _FOLDER = "Settings (default: the paper's)", "Machine", "Folder"

_Quick = Annotated[bool, typer.Option("--quick", help="Ten seconds, to see that all works.", rich_help_panel=_SETTINGS)]
_Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one.", rich_help_panel=_MACHINE)
]
_Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes side by side; 1: this one alone. Default: one per core; on a GPU, or for a short run, 1.",
        rich_help_panel=_MACHINE,
    ),
]
_Threads = Annotated[int, typer.Option(help="Threads of each process.", rich_help_panel=_MACHINE)]
_DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="SYNAPTIC_DATA_DIR",
        help="Where mnist, cifar10, cifar100 lie. Default: MNIST from the package, CIFAR from the hub.",
        rich_help_panel=_FOLDER,
    ),
]


@app.command("run", epilog=_EXAMPLES)
def _run(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help=f"One of {', '.join([*EXPERIMENTS, *STUDIES])}.")],
    seeds: Annotated[int | None, typer.Option(help="Runs of each strength.", rich_help_panel=_SETTINGS)] = None,
    first_seed: Annotated[
        int | None, typer.Option(help="The smallest seed; the others follow it.", rich_help_panel=_SETTINGS)
    ] = None,
    c: Annotated[
        list[float] | None,
        typer.Option("--c", help="Strength of the synapses; repeat it for several.", rich_help_panel=_SETTINGS),
    ] = None,
    xi: Annotated[float | None, typer.Option(help="Damping of the importance.", rich_help_panel=_SETTINGS)] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over each task's images.", rich_help_panel=_SETTINGS)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.", rich_help_panel=_SETTINGS)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=_SETTINGS)] = None,
    tasks: Annotated[int | None, typer.Option(help="How many tasks are learnt.", rich_help_panel=_SETTINGS)] = None,
    limit: Annotated[
        int | None, typer.Option(help="Use the first N images of each task alone.", rich_help_panel=_SETTINGS)
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: ewc:STRENGTH, sgd-dropout, joint, scratch, or none; repeat it for several.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    fisher_images: Annotated[
        int | None, typer.Option(help="Images of each task that ewc looks at.", rich_help_panel=_SETTINGS)
    ] = None,
    keep_step_count: Annotated[
        bool,
        typer.Option(
            "--keep-step-count",
            help="Start each task with fresh moments, but let Adam count on, as the authors' code does.",
            rich_help_panel=_SETTINGS,
        ),
    ] = False,
    coarse_omega: Annotated[
        bool,
        typer.Option("--coarse-omega", help="Keep omega in bfloat16, in half the memory.", rich_help_panel=_SETTINGS),
    ] = False,
    quick: _Quick = False,
    device: _Device = "auto",
    workers: _Workers = None,
    threads: _Threads = 1,
    data_dir: _DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the result goes. Default: runs/EXPERIMENT.", rich_help_panel=_FOLDER)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.", rich_help_panel=_FOLDER)
    ] = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="Go on with a run to which seeds, strengths or rivals are added.", rich_help_panel=_FOLDER
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is there.", rich_help_panel=_FOLDER)
    ] = False,
) -> None:
    """Run an experiment of the paper; its table and figure come at the end, and a page where tasks were learnt."""
    experiment, folder = _find(name), data_dir.expanduser() if data_dir else None
    given: dict[str, Any] = {
        "seeds": seeds,
        "first_seed": first_seed,
        "c": tuple(c) if c else None,
        "xi": xi,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "tasks": tasks,
        "limit": limit,
        "rivals": _rivals(experiment, rival) if rival and isinstance(experiment, Experiment) else rival,
        "fisher_images": fisher_images,
        "keep_step_count": keep_step_count or None,
        "coarse_omega": coarse_omega or None,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if isinstance(experiment, Study):
        elsewhere = {
            "device": device not in ("auto", "cpu"),
            "workers": workers is not None,
            "resume": resume,
            "extend": extend,
        }
        with refusing_settings():
            settings = study_settings(
                experiment, quick, {**changes, **{key: True for key, foreign in elsewhere.items() if foreign}}
            )
            asked = StudyRequest(experiment, settings, quick, threads, folder, out, overwrite)
        with refusing(RefusedError):
            study(asked)
        return
    with refusing_settings():
        request = Request(
            experiment=experiment,
            settings=replace(experiment.quick if quick else experiment.paper, **changes),
            device=device,
            workers=workers,
            threads=threads,
            data_dir=folder,
            out=out,
            resume=resume,
            extend=extend,
            overwrite=overwrite,
        )
    with refusing(RefusedError):
        train(request)


@app.command("reproduce", epilog=_EXAMPLES)
def _reproduce(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERIMENT", help="This one alone; repeat it for several.", rich_help_panel=_SETTINGS),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each method.", rich_help_panel=_SETTINGS)] = None,
    quick: _Quick = False,
    device: _Device = "auto",
    workers: _Workers = None,
    threads: _Threads = 1,
    data_dir: _DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Where all of it goes. Default: runs/reproduce.", rich_help_panel=_FOLDER)
    ] = None,
) -> None:
    """Run every experiment of the paper, and write the page with its figures and numbers beside these.

    What is done already is kept, and what was stopped goes on: give the same command again.
    """
    if seeds is not None and seeds < 1:
        # Here, as not every experiment draws random numbers.
        refuse(f"--seeds must be 1 or more, not {seeds}")
    folder = data_dir.expanduser() if data_dir else None
    with refusing_settings():
        # At once, as each experiment would refuse them anew, and studies know nothing of devices.
        check_machine(threads, folder, out)
        check_workers(workers)
        existing_device(device)
    asked = Reproduction(
        names=tuple(dict.fromkeys(_find(name).name for name in only)) if only else default_names(),
        quick=quick,
        seeds=seeds,
        out=out or Path("runs") / ("reproduce-quick" if quick else "reproduce"),
        device=device,
        workers=workers,
        threads=threads,
        data_dir=folder,
    )
    reproduce(asked)


@app.command("report", epilog=_EXAMPLES)
def _report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT", help="Result files, or their folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where figures and pages go. Default: beside result.json; for a.json, a folder a."),
    ] = None,
) -> None:
    """Show results as tables; write a figure of each, and a page where tasks were learnt."""
    paths = [_outcome_in(path) if path.is_dir() else path for path in results]
    folders = [_report_folder(path, out, alone=len(paths) == 1) for path in paths]
    if len({folder.resolve() for folder in folders}) < len(folders):
        refuse("two of these results have one folder for their figures; report them one by one, each with its --out")
    # Not sooner: it imports matplotlib, which would delay the other commands.
    from synaptic_intelligence.paper.outcome import read_outcome

    with refusing(ResultError, OSError):
        for path, result, folder in zip(paths, [read_outcome(path) for path in paths], folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            report(result, path, folder)


@app.command("inspect", epilog=_FILE_EXAMPLES)
def _inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance file, as synapses.save() writes it.")],
    top: Annotated[int, typer.Option(help="How many of the most important numbers to name.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what an importance file holds: by parameter, by size, and which numbers matter most."""
    inspect_file(file, top, as_json)


@app.command("merge", epilog=_FILE_EXAMPLES)
def _merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Importance files, two or more.")],
    out: Annotated[Path, typer.Option(help="Where the new file goes.")],
    c: Annotated[
        list[float] | None,
        typer.Option("--c", help="Strength of a file; repeat it, once for each. Default: the one that each holds."),
    ] = None,
    merged_c: Annotated[float, typer.Option(help="Strength in the new file; its omega is divided by it.")] = 1.0,
    missing: Annotated[
        Literal["refuse", "free"],
        typer.Option(help="Where some files lack a parameter: refuse, or leave it free there."),
    ] = "refuse",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Make one importance file of several, which pulls as they do together."""
    merge_files(files, out, c, merged_c, missing, overwrite)


def _rivals(experiment: Experiment, given: list[str]) -> tuple[str, ...]:
    if given == ["none"]:
        return ()
    there = f"there are: {', '.join(experiment.rivals)}" if experiment.rivals else "it has none: --rival none"
    for text in given:
        if text == "none":
            refuse("--rival none stands alone: without the others it means no rivals")
        if text.partition(":")[0] not in experiment.rivals:
            small = text.lower()
            meant = f"did you mean {small}?" if small.partition(":")[0] in experiment.rivals else there
            refuse(f"--rival {text} makes no sense in {experiment.name}; {meant}")
    return tuple(given)


def _outcome_in(folder: Path) -> Path:
    return next((folder / name for name in _OUTCOMES if (folder / name).exists()), folder / _OUTCOMES[0])


def _report_folder(path: Path, out: Path | None, *, alone: bool) -> Path:
    """Return the folder of a result's figure and page; only what a run has made has a folder to itself already."""
    if path.name not in _OUTCOMES:
        return (out or path.parent) / path.stem
    if out is None:
        return path.parent
    return out if alone else out / path.resolve().parent.name


def _find(name: str) -> Experiment | Study:
    every: dict[str, Experiment | Study] = {**EXPERIMENTS, **STUDIES}
    if name in every:
        return every[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), every, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(every)}"
    refuse(f"there is no experiment {name!r}; {hint}")
