"""The words that table, figure and page share, so that they say the same thing."""

from __future__ import annotations

from synaptic_intelligence.document import exact
from synaptic_intelligence.findings import Findings
from synaptic_intelligence.report.statistics import Summary
from synaptic_intelligence.result import Result

_RIVALS = {
    "ewc": "EWC",
    "sgd-dropout": "SGD with dropout",
    "scratch": "each task from scratch",
    "joint": "all tasks at once",
}


def method_name(method: str, c: float | None) -> str:
    """Return the name of a method with its strength.

    Example:
        >>> method_name("si", 0.0), method_name("si", 0.1), method_name("ewc", 30.0)
        ('without synapses (c = 0)', 'c = 0.1', 'EWC, c = 30')
    """
    if method == "si" and c == 0:
        return "without synapses (c = 0)"
    parts = [] if method == "si" else [_RIVALS.get(method, method)]
    return ", ".join([*parts, *([] if c is None else [f"c = {exact(c)}"])])


def seeds_shown(count: int) -> str:
    """Say how many seeds a number is of.

    Example:
        >>> seeds_shown(1), seeds_shown(5)
        ('1 seed', '5 seeds')
    """
    return f"{count} seed{'s'[: count != 1]}"


def numbers_shown(summaries: list[Summary]) -> str:
    """Say what the numbers are: means over how many seeds, with which interval.

    Example:
        >>> numbers_shown([])
        'No run is complete.'
    """
    if not summaries:
        return "No run is complete."
    seeds = sorted({summary.seeds for summary in summaries})
    if seeds == [1]:
        return "One seed, so no interval."
    single = " What has one seed has no interval." if 1 in seeds else ""
    return f"Mean and 95 % interval (Student's t) over {' or '.join(map(str, seeds))} seeds.{single}"


def warnings(result: Result) -> list[str]:
    """Return what a reader must know before believing the numbers; empty for a full run of the paper's protocol.

    Example:
        >>> warnings(Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=["2 epochs instead of 10"],
        ...     task_names=["0 or 1"], runs=[], planned_runs=6, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5))
        ["This is not the paper's protocol: 2 epochs instead of 10.", 'Incomplete: 0 of 6 runs are complete.']
    """
    said = []
    if result.deviations:
        said.append(f"This is not the paper's protocol: {'; '.join(result.deviations)}.")
    if not result.complete:
        shown = " Only these are shown." if result.complete_runs else ""
        said.append(f"Incomplete: {len(result.complete_runs)} of {result.planned_runs} runs are complete.{shown}")
    return said


def study_warnings(findings: Findings) -> list[str]:
    """Return what a reader must know before believing a study's numbers; empty where it is the study that is meant.

    Example:
        >>> study_warnings(Findings(
        ...     experiment="toy", title="Toy", settings={}, deviations=["steps 2 instead of 200"], numbers={},
        ...     environment={}, command="synaptic run toy", started="2025-01-31T12:00:00+00:00", wall_seconds=0.1))
        ['This is not the study as it is meant: steps 2 instead of 200.']
    """
    if not findings.deviations:
        return []
    return [f"This is not the study as it is meant: {'; '.join(findings.deviations)}."]
