"""What stands at the end: the table on the terminal, and where the file, figure and page lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from synaptic_intelligence.document import ResultError
from synaptic_intelligence.result import Result

if TYPE_CHECKING:  # They import matplotlib and scipy, which take a second and would delay the training.
    from matplotlib.figure import Figure

    from synaptic_intelligence.paper.outcome import Outcome
    from synaptic_intelligence.paper.row import Row


def report(outcome: Outcome, path: Path, folder: Path) -> None:
    """Print the table of an outcome, which lies at ``path``; write its figure, and a result's page, into ``folder``.

    Raises:
        ResultError: the numbers are not those that the experiment has; the message names the file.
        OSError: the folder cannot be written.
    """
    from synaptic_intelligence.paper.outcome import said_of
    from synaptic_intelligence.paper.row import row_table
    from synaptic_intelligence.report import result_table, save_figure, write_page

    figure, rows = compared(outcome, path)
    console = Console()
    if not console.is_terminal:
        # A file has room for the whole table; rich would break it to 80 columns.
        console = Console(width=160)
    console.print()
    pages = []
    if isinstance(outcome, Result):
        console.print(result_table(outcome))
        write_page(outcome, figure, folder / "report.html")
        pages = [("page", folder / "report.html")]
        if rows:
            # What must be said stands below the table of accuracies already.
            console.print()
            console.print(row_table(outcome.title, rows, []))
    else:
        console.print(row_table(outcome.title, rows, said_of(outcome)))
    png, svg = save_figure(figure, folder)
    for what, where in (("result", path), ("figure", png), ("", svg), *pages):
        # Not through rich, which would break long paths.
        print(f"{what:<7} {where}")


def compared(outcome: Outcome, path: Path) -> tuple[Figure, list[Row]]:
    """Return the figure of an outcome, which lies at ``path``, and what its table of accuracies does not tell, if any.

    Raises:
        ResultError: the numbers are not those that the experiment has; the message names the file.
    """
    from synaptic_intelligence.paper.sections import SECTIONS
    from synaptic_intelligence.report import draw_figure

    section = SECTIONS.get(outcome.experiment)
    if section is None:
        # A result of an experiment that this version does not know is shown as any other; studies are all known.
        assert isinstance(outcome, Result)
        return draw_figure(outcome), []
    try:
        own_table = isinstance(outcome, Result) and not section.runs_of
        return section.draw(outcome), [] if own_table else section.rows(outcome)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ResultError(
            f"{path}: its numbers are not those of {outcome.experiment} in this version of synaptic-intelligence "
            f"({what}). Run it again: synaptic run {outcome.experiment}"
        ) from error
