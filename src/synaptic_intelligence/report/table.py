"""A result as a table: for the terminal, for Markdown, and as plain cells for the page."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.report.wording import method_name, numbers_shown, warnings
from synaptic_intelligence.result import Result

# This many tasks fit a terminal of 80 columns, and a page; of more, the first and the last are shown.
_TERMINAL, _PAGE = 5, 10


def result_cells(result: Result) -> list[list[str]]:
    """Return the table's cells: one row per method, a column for each task and three for the whole.

    The columns are the method, the number of seeds, the accuracy on each task after the last one (fractions), the
    average of these, forgetting and backward transfer, each as mean ± 95 % interval.
    """
    rows = []
    for s in summarize(result):
        estimates = [*s.final, s.average, s.forgetting, s.backward_transfer]
        rows.append(
            [method_name(s.method, s.c), str(s.seeds), *("-" if value is None else str(value) for value in estimates)]
        )
    return rows


def column_names(task_names: list[str]) -> list[str]:
    """Return the names of the columns of ``result_cells``."""
    return ["method", "seeds", *task_names, "average", "forgetting", "backward transfer"]


def result_table(result: Result) -> Table:
    """Return the table for a terminal; up to five tasks fit 80 columns, of more it shows the first and the last.

    Example:
        >>> result_table(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5)).row_count
        0
    """
    names = [name if len(name) <= 6 else f"task {i}" for i, name in enumerate(result.task_names, 1)]
    title = Text(f"{result.title}: accuracy after the last task", style="bold")
    caption = Text("\n".join([numbers_shown(summarize(result)), *_left_out(result, _TERMINAL), *warnings(result)]))
    # The box alone puts one space between columns.
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    headers = column_names(names)
    columns = _columns(len(names), _TERMINAL)
    for column in columns:
        table.add_column(Text(headers[column]), justify="right" if column else "left")
    for row in result_cells(result):
        # Two short lines for what would be one long one.
        table.add_row(*(Text(row[column].replace(" ± ", "\n±").replace(" (", "\n(")) for column in columns))
    return table


def markdown_table(result: Result) -> str:
    """Return the same numbers as a table in Markdown, followed by what must be said of them.

    Of more than ten tasks it shows the first and the last.

    Example:
        >>> print(markdown_table(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5)))
        | method | seeds | 0 or 1 | average | forgetting | backward transfer |
        | :-- | --: | --: | --: | --: | --: |
        <BLANKLINE>
        No run is complete. Incomplete: 0 of 1 runs are complete.
        <BLANKLINE>
    """
    columns = _columns(len(result.task_names), _PAGE)
    headers = column_names(result.task_names)
    rows = [headers, [":--", *["--:"] * (len(headers) - 1)], *result_cells(result)]
    lines = ["| " + " | ".join(row[column].replace("|", r"\|") for column in columns) + " |" for row in rows]
    said = [numbers_shown(summarize(result)), *_left_out(result, _PAGE), *warnings(result)]
    return "\n".join([*lines, "", " ".join(said), ""])


def _columns(tasks: int, most: int) -> list[int]:
    """Return which of the columns of ``result_cells`` are shown where there is room for so many tasks at most."""
    shown = range(tasks) if tasks <= most else (0, tasks - 1)
    return [0, 1, *(2 + task for task in shown), *range(2 + tasks, 5 + tasks)]


def _left_out(result: Result, most: int) -> list[str]:
    count = len(result.task_names)
    return [f"Shown are the first and the last of {count} tasks; the average is of all."] if count > most else []
