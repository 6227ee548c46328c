"""What experiments beside those of the paper have found, as docs/paper.md says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.settings import deviations
from synaptic_intelligence.paper.correlations import layer_names
from synaptic_intelligence.paper.targets import TARGETS
from synaptic_intelligence.result import Run, read_result

_PAPER = EXPERIMENTS["permuted-mnist"].paper


def anchor(file: Path) -> str:
    """Say what benchmarks/first_anchor.py has found."""
    found = json.loads(file.read_text("utf-8"))
    ours, theirs = (_accuracies(form["accuracy"]) for form in found["forms"])
    return (
        "Importance as it would be with the first anchor at zero has, after the first task, a correlation of "
        f"{found['correlation']:.5f} with ours. Held by it (c = {found['c']:g}), the second task ends with "
        f"accuracies of {theirs} on the two tasks; held by ours, with {ours}. {_made(file, found, tasks=2)}\n"
    )


def epsilon(file: Path) -> str:
    """Say what benchmarks/adam_epsilon.py has found."""
    found = json.loads(file.read_text("utf-8"))
    ours, theirs = (_accuracies(form["accuracy"][-1]) for form in found["forms"])
    sums = [form["sum_of_omega"][-1] for form in found["forms"]]
    again = _accuracies(_second_task(file.with_name("permuted-mnist.json"), found["c"], found["seed"]))
    return (
        f"With epsilon before the correction the second task ends (c = {found['c']:g}) with accuracies of {theirs} on "
        f"the two tasks, with ours {ours}; all importance together is then {sums[1] / sums[0]:.3f} times ours. "
        "Ours has the images in the order of the run above, from a release that rounds otherwise; that run has "
        f"{again} there, which is what chance alone makes. {_made(file, found, tasks=2)}\n"
    )


def authors(file: Path) -> str:
    """Say what benchmarks/as_the_authors.py has found, beside the run of the same seed and the paper's numbers."""
    found = json.loads(file.read_text("utf-8"))
    main, paper = _runs(file.with_name("permuted-mnist.json")), TARGETS["permuted-mnist"]
    said = []
    for run in found["runs"]:
        curve = _averages(run["accuracy"])
        ours = _averages(main[run["c"]].accuracy)[len(curve) - 1]
        clipped = fmean(shares[-1] for shares in run["clipped"])
        said.append(
            f"with c = {run['c']:g} at {curve[-1]:.3f} (ours {ours:.3f}, theirs {paper['si', run['c']]}), where in a "
            f"task's last epoch {clipped:.0%} of the images teach nothing"
        )
    return f"With all three the network ends {'; '.join(said)}. {_made(file, found, tasks=found['tasks'])}\n"


def second(file: Path) -> str:
    """Say how a second seed of permuted MNIST lies beside the first, of the strengths that it has whole."""
    first = _runs(file.with_name("permuted-mnist.json"))
    said = []
    for c, run in _runs(file).items():
        here, there = _averages(run.accuracy), _averages(first[c].accuracy)
        apart = max(abs(a - b) for a, b in zip(here, there, strict=True))
        said.append(
            f"with c = {c:g} at {here[-1]:.3f} (the first: {there[-1]:.3f}; on the way up to {apart:.3f} apart)"
        )
    return f"A second seed, with other weights and another order of the images, ends {'; '.join(said)}.\n"


def fifty(file: Path) -> str:
    """Say what many permuted tasks do to the network: what it still learns, and what it still holds."""
    (c, run), *_ = _runs(file).items()
    curve, tasks = _averages(run.accuracy), len(run.accuracy)
    new = [row[task] for task, row in enumerate(run.accuracy)]
    ten = _averages(_runs(file.with_name("permuted-mnist.json"))[c].accuracy)[9]
    lost = next(n for n, row in enumerate(run.accuracy, 1) if row[0] < 0.5)
    older, last = fmean(run.accuracy[-1][: tasks // 2]), fmean(run.accuracy[-1][-10:])
    return (
        f"With c = {c:g} the network goes on to learn: the newest task reaches {new[9]:.3f} after ten tasks and "
        f"{new[-1]:.3f} after {tasks}. What ends is memory. After {lost} tasks the first one is told wrongly more "
        f"often than not. The average is {curve[9]:.3f} after ten tasks (in the whole protocol {ten:.3f}), "
        f"{curve[24]:.3f} after 25 and {curve[-1]:.3f} after {tasks}: then it is {last:.3f} of the last ten tasks, and "
        f"{older:.3f} of the older half, which is far above guessing.\n"
    )


def shared(file: Path) -> str:
    """Return the tables of benchmarks/shared_synapses.py: correlations between tasks, and what is that of units."""
    found = json.loads(file.read_text("utf-8"))
    spans = {"neighbours": (1, 1), "five or more apart": (5, 99), "all": (1, 99)}
    head = [f"{name}, c = {run['c']:g}" for name in spans for run in found["runs"]]
    lines = ["| | " + " | ".join(head) + " |", "| :-- |" + " --: |" * len(head)]
    layers = list(found["runs"][0]["correlations"])
    titled = list(zip(layer_names(len(layers)), layers, strict=True))
    for title, layer in titled:
        for reading in found["runs"][0]["correlations"][layer]:
            cells = [
                f"{mean_between(run['correlations'][layer][reading], *span):.3f}"
                for span in spans.values()
                for run in found["runs"]
            ]
            lines.append(f"| {title}, {reading} | " + " | ".join(cells) + " |")
    parts = {"units, of the variance": "variance, units", "units, of the covariance": "covariance, units"}
    head = [f"{name}, c = {run['c']:g}" for name in parts for run in found["runs"]]
    twice = [reading for reading in found["again"][layers[0]] if reading in ("path", "synapses")]
    head += [f"one task twice, {reading}" for reading in twice]
    lines += ["", "| | " + " | ".join(head) + " |", "| :-- |" + " --: |" * len(head)]
    for title, layer in titled:
        cells = [f"{run['shares'][layer][part]:.2f}" for part in parts.values() for run in found["runs"]]
        cells += [f"{found['again'][layer][reading]:.3f}" for reading in twice]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", _made(file, found, tasks=len(found["runs"][0]["correlations"][layers[0]]["path"])), ""]
    )


def mean_between(below: list[list[float]], least: int, most: int) -> float:
    """Return the mean correlation of the tasks that lie so far apart, of ``below[i][j]`` for j < i.

    Example:
        >>> mean_between([[], [0.5], [0.1, 0.3]], 1, 1)
        0.4
    """
    return fmean(row[j] for i, row in enumerate(below) for j in range(i) if least <= i - j <= most)


def _accuracies(values: list[float]) -> str:
    return " and ".join(f"{value:.3f}" for value in values)


def _averages(rows: list[list[float]]) -> list[float]:
    """Return after each task the average accuracy over the tasks so far."""
    return [fmean(row[:number]) for number, row in enumerate(rows, 1)]


def _runs(file: Path) -> dict[float, Run]:
    """Return the complete runs with synapses, one for each strength."""
    return {run.c: run for run in read_result(file).complete_runs if run.method == "si" and run.c is not None}


def _second_task(file: Path, c: float, seed: int) -> list[float]:
    """Return the accuracies on the first two tasks after the second one, of a run of the main result."""
    (run,) = (run for run in read_result(file).runs if (run.method, run.c, run.seed) == ("si", c, seed))
    return run.accuracy[1][:2]


def _made(file: Path, found: dict[str, Any], *, tasks: int) -> str:
    whole = replace(_PAPER, rivals=())
    short = deviations(replace(whole, epochs=found["epochs"], tasks=tasks), whole)
    said = f" (not the paper's protocol: {'; '.join(short)})" if short else ""
    return f"One seed{said}: `{found['command']}`, [`{file.name}`](results/{file.name})."


PARTS: dict[str, Callable[[Path], str]] = {
    "anchor": anchor,
    "epsilon": epsilon,
    "authors": authors,
    "second": second,
    "fifty": fifty,
    "shared": shared,
}
