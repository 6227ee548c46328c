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
from synaptic_intelligence.result import read_result

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


def _second_task(file: Path, c: float, seed: int) -> list[float]:
    """Return the accuracies on the first two tasks after the second one, of a run of the main result."""
    (run,) = (run for run in read_result(file).runs if (run.method, run.c, run.seed) == ("si", c, seed))
    return run.accuracy[1][:2]


def _made(file: Path, found: dict[str, Any], *, tasks: int) -> str:
    whole = replace(_PAPER, rivals=())
    short = deviations(replace(whole, epochs=found["epochs"], tasks=tasks), whole)
    said = f" (not the paper's protocol: {'; '.join(short)})" if short else ""
    return f"One seed{said}: `{found['command']}`, [`{file.name}`](results/{file.name})."


PARTS: dict[str, Callable[[Path], str]] = {"anchor": anchor, "epsilon": epsilon, "shared": shared}
