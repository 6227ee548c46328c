"""What stands at the end: the table on the terminal, and where the file, figure and page lie."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from synaptic_intelligence.document import ResultError
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.result import Result


def report(outcome: Result | Findings, path: Path, folder: Path) -> None:
    """Print the table of an outcome, which lies at ``path``; write its figure, and a result's page, into ``folder``.

    Raises:
        ResultError: the findings are of a study that does not exist here.
        OSError: the folder cannot be written.
    """
    # Not sooner: matplotlib and scipy take a second to import, which would delay the training.
    from synaptic_intelligence.paper.row import row_table
    from synaptic_intelligence.paper.sections import SECTIONS
    from synaptic_intelligence.report import draw_figure, result_table, save_figure, write_page
    from synaptic_intelligence.report.wording import study_warnings

    console = Console()
    if not console.is_terminal:
        # A file has room for the whole table; rich would break it to 80 columns.
        console = Console(width=160)
    console.print()
    section = SECTIONS.get(outcome.experiment)
    if isinstance(outcome, Result):
        # A result of an experiment that this version does not know is shown as any other.
        figure = draw_figure(outcome) if section is None else section.draw(outcome)
        console.print(result_table(outcome))
        write_page(outcome, figure, folder / "report.html")
        pages = [("page", folder / "report.html")]
    elif section is None:
        raise ResultError(f"{path}: this version of synaptic-intelligence has no study {outcome.experiment!r}")
    else:
        figure, pages = section.draw(outcome), []
        console.print(row_table(outcome.title, section.rows(outcome), study_warnings(outcome)))
    png, svg = save_figure(figure, folder)
    for what, where in (("result", path), ("figure", png), ("", svg), *pages):
        # Not through rich, which would break long paths.
        print(f"{what:<7} {where}")
