"""What experiments beside those of the paper have found, as docs/paper.md says it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.permuted_mnist import PERMUTATIONS_SEED
from synaptic_intelligence.experiments.settings import deviations
from synaptic_intelligence.metrics import AccuracyMatrix
from synaptic_intelligence.paper.correlations import correlation_rows, layer_names
from synaptic_intelligence.paper.targets import TARGETS
from synaptic_intelligence.report.statistics import mean_and_interval
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
    again = _accuracies(_run(file.with_name("permuted-mnist.json"), found["c"], found["seed"]).accuracy[1][:2])
    return (
        f"With epsilon before the correction the second task ends (c = {found['c']:g}) with accuracies of {theirs} on "
        f"the two tasks, with ours {ours}; all importance together is then {sums[1] / sums[0]:.3f} times ours. "
        "Ours has the images in the order of the run above, from a release that rounds otherwise; that run has "
        f"{again} there, which is what chance alone makes. {_made(file, found, tasks=2)}\n"
    )


def authors(file: Path) -> str:
    """Say what benchmarks/as_the_authors.py has found, beside the run of the same seed and the paper's numbers."""
    found = json.loads(file.read_text("utf-8"))
    main, paper = file.with_name("permuted-mnist.json"), TARGETS["permuted-mnist"]
    said = []
    for run in found["runs"]:
        curve = _averages(run["accuracy"])
        ours = _averages(_run(main, run["c"], found["seed"]).accuracy)[len(curve) - 1]
        clipped = fmean(shares[-1] for shares in run["clipped"])
        said.append(
            f"with c = {run['c']:g} at {curve[-1]:.3f} (ours {ours:.3f}, theirs {paper['si', run['c']]}; {clipped:.0%} "
            "of the images are clipped in the last epochs of the tasks)"
        )
    return (
        f"With their loss and their epsilon the network ends {'; '.join(said)}. "
        f"{_made(file, found, tasks=found['tasks'])}\n"
    )


def anchored(file: Path) -> str:
    """Say what benchmarks/as_the_authors.py has found with the first anchor at zero, with our permutations."""
    found = json.loads(file.read_text("utf-8"))
    beside = json.loads(file.with_name("as-the-authors.json").read_text("utf-8"))
    if found["first_anchor"] != "zero" or {run["permutations"] for run in found["runs"]} != {PERMUTATIONS_SEED}:
        raise SystemExit(f"{file}: expected the first anchor at zero, and the permutations of the protocol")
    same = {run["c"]: _averages(run["accuracy"]) for run in beside["runs"]}
    said = []
    for run in found["runs"]:
        curve, other = _averages(run["accuracy"]), same[run["c"]]
        apart = max(abs(a - b) for a, b in zip(curve, other, strict=False))
        said.append(
            f"with c = {run['c']:g} at {curve[-1]:.3f}; with ours it ends at {other[len(curve) - 1]:.3f}, and on the "
            f"way they are up to {apart:.3f} apart"
        )
    return (
        f"With the first anchor at zero, too, the network ends {'. It ends '.join(said)}. "
        f"{_made(file, found, tasks=found['tasks'])}\n"
    )


def permuted(file: Path) -> str:
    """Say what benchmarks/as_the_authors.py has found with other permutations, beside its run with ours."""
    found = json.loads(file.read_text("utf-8"))
    beside = json.loads(file.with_name("as-the-authors-c-0.02-first-anchor-zero.json").read_text("utf-8"))
    (run,), others = beside["runs"], found["runs"]
    c, ours = run["c"], _averages(run["accuracy"])
    differing = [key for key in ("epochs", "tasks", "seed", "first_anchor") if found[key] != beside[key]]
    several = {run["permutations"], *(other["permutations"] for other in others)}
    if differing or found["first_anchor"] != "zero" or {other["c"] for other in others} != {c}:
        raise SystemExit(f"{file}: expected c = {c:g}, the first anchor at zero, and the rest as with our permutations")
    if len(several) != 1 + len(others):
        raise SystemExit(f"{file}: expected other permutations than ours, and each set once")
    curves = [_averages(other["accuracy"]) for other in others]
    ends = [curve[-1] for curve in (*curves, ours)]
    apart = [[a - b for a, b in zip(curve, ours, strict=True)] for curve in curves]
    before = _listed([f"{differences[-2]:+z.3f}" for differences in apart])
    every = [difference for differences in apart for difference in differences]
    average, theirs = mean_and_interval(ends), TARGETS["permuted-mnist"]["si", c]
    assert average.half_width is not None
    # The interval of the mean, widened to that of a single further value.
    width = average.half_width * math.sqrt(len(ends) + 1)
    inside = average.mean - width <= theirs.low <= theirs.high <= average.mean + width
    return (
        f"With their loss, epsilon and first anchor, and other permutations, c = {c:g} ends at "
        f"{_accuracies(ends[:-1])}, with our permutations at {ends[-1]:.3f}. Less ours, the average is {before} after "
        f"the last task but one, and between {min(every):+z.3f} and {max(every):+z.3f} throughout. A further set of "
        f"permutations, with the same weights at the start and order of images, would end between "
        f"{average.mean - width:.3f} and {average.mean + width:.3f} (95 %, Student's t from {len(ends)} values): "
        f"theirs, {theirs}, lies {'inside' if inside else 'outside'}. "
        f"{_made(file, found, tasks=found['tasks'])}\n"
    )


def second(file: Path) -> str:
    """Say how another seed of permuted MNIST lies beside the first, of the strengths that it has whole."""
    said = []
    for run in _with_synapses(file):
        first = _averages(_run(file.with_name("permuted-mnist.json"), run.c, 0).accuracy)
        other = _averages(run.accuracy)
        apart = [abs(a - b) for a, b in zip(first, other, strict=True)]
        said.append(
            f"with c = {run.c:g} at {other[-1]:.3f}, the first at {first[-1]:.3f}; on the way they are up to "
            f"{max(apart):.3f} apart, and one task before the end {apart[-2]:.3f}"
        )
    return f"A second seed, with other weights and another order of the images, ends {'. It ends '.join(said)}.\n"


def alike(file: Path) -> str:
    """Say how alike the paths of two tasks are with another seed of permuted MNIST, held against not held."""
    other, first = (
        {row.what: row.ours.partition(" ")[0] for row in correlation_rows(read_result(of))}
        for of in (file, file.with_name("permuted-mnist.json"))
    )
    said: dict[str, list[str]] = {}
    for what in (what for what in other if what.endswith(" less c = 0") and what in first):
        pairs, _, strengths = what.removeprefix("second layer, ").partition(": ")
        said.setdefault(strengths, []).append(f"{other[what]} for {pairs} (first seed {first[what]})")
    found = ". ".join(f"{strengths} is {'; '.join(each)}" for strengths, each in said.items())
    return f"With the second seed of figure 4, {found}.\n"


def fifty(file: Path) -> str:
    """Say what many permuted tasks do to the network: what it still learns, and what it still holds."""
    result, said = read_result(file), []
    whole = {run.c: run for run in _with_synapses(file.with_name("permuted-mnist.json"))}
    for run in sorted(_with_synapses(file), key=lambda run: run.c or 0.0):
        curve, last, tasks = _averages(run.accuracy), run.accuracy[-1], len(run.accuracy)
        beside = f" (in the whole protocol {_averages(whole[run.c].accuracy)[9]:.3f})" if run.c in whole else ""
        said.append(
            f"With c = {run.c:g} the last of {tasks} tasks is learnt to {last[-1]:.3f}, the tenth to "
            f"{run.accuracy[9][9]:.3f}. The average is {curve[9]:.3f} after ten tasks{beside}, {curve[24]:.3f} after "
            f"25 and {curve[-1]:.3f} after {tasks}: {fmean(last[-10:]):.3f} over the last ten, "
            f"{fmean(last[: tasks // 2]):.3f} over the older half (guessing: {result.chance:g}). Of the first task "
            f"{run.accuracy[1][0]:.3f} is left after the second."
        )
    return "\n".join(said) + "\n"


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
    return _listed([f"{value:.3f}" for value in values])


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _averages(rows: list[list[float]]) -> list[float]:
    """Return after each task the average accuracy over the tasks so far."""
    matrix = AccuracyMatrix.from_rows([str(task) for task in range(len(rows[0]))], rows)
    return [matrix.average_accuracy(learnt) for learnt in range(1, len(rows) + 1)]


def _with_synapses(file: Path) -> list[Run]:
    return [run for run in read_result(file).complete_runs if run.method == "si"]


def _run(file: Path, c: float | None, seed: int) -> Run:
    (run,) = (run for run in _with_synapses(file) if (run.c, run.seed) == (c, seed))
    return run


def _made(file: Path, found: dict[str, Any], *, tasks: int) -> str:
    whole = replace(_PAPER, rivals=())
    short = deviations(replace(whole, epochs=found["epochs"], tasks=tasks), whole)
    said = f" (not the paper's protocol: {'; '.join(short)})" if short else ""
    return f"One seed{said}: `{found['command']}`, [`{file.name}`](results/{file.name})."


PARTS: dict[str, Callable[[Path], str]] = {
    "anchor": anchor,
    "epsilon": epsilon,
    "authors": authors,
    "anchored": anchored,
    "permuted": permuted,
    "second": second,
    "alike": alike,
    "fifty": fifty,
    "shared": shared,
}
