"""A result as a table, a figure and a page; needs the extra `experiments`."""

from __future__ import annotations

try:
    from synaptic_intelligence.drawing.style import save_figure
    from synaptic_intelligence.report.figure import draw_figure
    from synaptic_intelligence.report.page import write_page
    from synaptic_intelligence.report.statistics import mean_and_interval, summarize
    from synaptic_intelligence.report.table import markdown_table, result_table
except ModuleNotFoundError as error:
    problem = f"reports need {error.name}: install it with pip install 'synaptic-intelligence[experiments]'"
    raise ModuleNotFoundError(problem, name=error.name) from error

__all__ = [
    "draw_figure",
    "markdown_table",
    "mean_and_interval",
    "result_table",
    "save_figure",
    "summarize",
    "write_page",
]
