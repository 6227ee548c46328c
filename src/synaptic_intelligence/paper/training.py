"""The accuracies on training images, task by task."""

from __future__ import annotations

from statistics import fmean

from synaptic_intelligence.report.statistics import mean_and_interval, summarize
from synaptic_intelligence.report.wording import method_name
from synaptic_intelligence.result import Result


def training_table(result: Result) -> str:
    """Return the accuracies on training images after the last task as a table in Markdown.

    Methods are left out of which a complete run lacks them. It is empty where none is left.
    """
    rows = []
    for s in summarize(result):
        runs = [run for run in result.complete_runs if (run.method, run.c) == (s.method, s.c)]
        if all(run.final_train_accuracy for run in runs):
            found = [[*run.final_train_accuracy, fmean(run.final_train_accuracy)] for run in runs]
            estimates = [mean_and_interval(values) for values in zip(*found, strict=True)]
            rows.append([method_name(s.method, s.c), str(s.seeds), *map(str, estimates)])
    if not rows:
        return ""
    headers = ["on training images", "seeds", *result.task_names, "average"]
    lines = [headers, [":--", *["--:"] * (len(headers) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)
