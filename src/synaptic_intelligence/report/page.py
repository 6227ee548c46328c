"""The page: one HTML file that shows a result whole, and needs nothing beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.report.table import column_names, result_cells
from synaptic_intelligence.report.wording import method_name, numbers_shown, warnings
from synaptic_intelligence.result import Result, Run
from synaptic_intelligence.version import __version__


def write_page(result: Result, figure: Figure, path: Path) -> None:
    """Write one self-contained HTML page: the figure, table, every run, settings, environment and command.

    The page has no script and loads nothing, and forbids itself to (Content-Security-Policy).

    Raises:
        OSError: the folder does not exist, is read-only or is full; the page that was there stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "index.html"
        >>> result = Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5)
        >>> write_page(result, Figure(), path)
        >>> path.read_text("utf-8").splitlines()[0]
        '<!doctype html>'
    """
    template = files("synaptic_intelligence.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    svg = svg_text(figure)
    page = environment.from_string(template).render(
        result=result,
        warnings=warnings(result),
        numbers_shown=numbers_shown(summarize(result)),
        # Without the XML declaration and the document type, which have no place inside HTML.
        svg=svg[svg.index("<svg") :],
        figure_says=_in_words(result),
        columns=column_names(result.task_names),
        rows=result_cells(result),
        runs=[_run_cells(run, result.task_names) for run in sorted(result.runs, key=_order)],
        version=__version__,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def _order(run: Run) -> tuple[bool, str, float, int]:
    return run.method != "si", run.method, run.c or 0.0, run.seed


def _in_words(result: Result) -> str:
    """Say what the figure shows, for those who cannot see it."""
    ends = [f"{method_name(s.method, s.c)}: {s.average}" for s in summarize(result)]
    found = f" Average after the last task: {'; '.join(ends)}." if ends else ""
    return f"Charts of the accuracy on the tasks.{found}"


def _run_cells(run: Run, names: list[str]) -> list[str]:
    """One run after its last task so far: method, seed, tasks learnt, each task, average, seconds."""
    learnt = len(names) * len(run.accuracy) // run.stages
    row = run.accuracy[-1][:learnt] if run.accuracy else []
    average = f"{fmean(row):.3f}" if row else "-"
    accuracies = [f"{value:.3f}" for value in row] + ["-"] * (len(names) - learnt)
    told = [method_name(run.method, run.c), str(run.seed), f"{learnt} of {len(names)}"]
    return [*told, *accuracies, average, f"{sum(run.task_seconds):.1f}"]
