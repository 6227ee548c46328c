"""What stands at the end: the table on the terminal, and where result, figure and page lie."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from synaptic_intelligence.result import Result


def report(result: Result, path: Path, folder: Path) -> None:
    """Print the table of ``result``, which lies at ``path``; write its figure and page into ``folder``.

    Raises:
        OSError: the folder cannot be written.
    """
    # Not sooner: matplotlib and scipy take a second to import, which would delay the training.
    from synaptic_intelligence.report import draw_figure, result_table, save_figure, write_page

    console = Console()
    if not console.is_terminal:
        # A file has room for the whole table; rich would break it to 80 columns.
        console = Console(width=160)
    console.print()
    console.print(result_table(result))
    figures = save_figure(draw_figure(result), folder)
    page = folder / "report.html"
    write_page(result, page)
    for what, where in (("result", path), ("figure", figures[0]), ("", figures[1]), ("page", page)):
        # Not through rich, which would break long paths.
        print(f"{what:<7} {where}")
