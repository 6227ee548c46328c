"""How alike the path integrals of the tasks are, and whether that is what the paper reads from its figure 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from synaptic_intelligence.paper.row import Row
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval
from synaptic_intelligence.report.wording import method_name, seeds_shown
from synaptic_intelligence.result import Result, Run

_LAYERS = ("first layer", "second layer", "output layer")

_PAPERS = 0.1  # the strength of the paper's figure

_Key = tuple[str, float | None]
_Matrix = list[list[float]]  # below the diagonal


def layer_names(count: int) -> Sequence[str]:
    """Return what the weight matrices are called, from the input to the output."""
    return _LAYERS if count == len(_LAYERS) else [f"layer {i}" for i in range(1, count + 1)]


def runs_compared(result: Result) -> dict[_Key, list[Run]]:
    """Return the complete runs whose tasks' paths were compared, by method and strength; the weakest first."""
    found: dict[_Key, list[Run]] = {}
    for run in sorted(result.complete_runs, key=lambda run: run.c or 0.0):
        if run.path_correlation:
            found.setdefault((run.method, run.c), []).append(run)
    return found


def between_tasks(result: Result) -> dict[_Key, list[Estimate]]:
    """Return for each method the mean correlation of two different tasks' path integrals, layer by layer.

    A seed's number is the mean over all pairs of tasks; the estimate is over the seeds.
    """
    found = {}
    for method, runs in runs_compared(result).items():
        layers = list(runs[0].path_correlation)
        found[method] = [mean_and_interval([_of_pairs(r.path_correlation[n]) for r in runs]) for n in layers]
    return found


def correlation_rows(result: Result) -> list[Row]:
    """Return what the paper reads from its figure 5 as numbers, then the mean correlation of each layer and method.

    The paper reads three things: the first layer's paths are uncorrelated; without consolidation those of the second
    layer become more alike from task to task; consolidation, of c = 0.1, prevents strong correlations. How near zero
    is uncorrelated, and how far from it is strong, the paper does not say: the first layer is measured against the
    second, and with consolidation against without, by the two tasks that are most alike and by several means.
    Other strengths have their numbers too, and nothing is claimed of them.

    Source: Zenke et al. 2017, figure 5 and section 5.2.
    """
    rows = []
    means = between_tasks(result)
    for key, layers in means.items():
        for number, (name, estimate) in enumerate(zip(layer_names(len(layers)), layers, strict=True)):
            # The pixels of each task are in an order of their own.
            expected = "near 0" if number == 0 else "-"
            seeds = _seeds(len(runs_compared(result)[key]))
            rows.append(
                Row(f"{name}, mean over all pairs of tasks, {method_name(*key)}", expected, f"{estimate} {seeds}")
            )
    return [*_readings(result), *rows]


def _readings(result: Result) -> list[Row]:
    runs = runs_compared(result)
    without = runs.get(("si", 0.0), [])
    rows = []
    for (method, c), these in runs.items():
        if len(_second_layer(these[0])) > 3:
            rises = [_later(_second_layer(run)) - _earlier(_second_layer(run)) for run in these]
            what = f"second layer, neighbouring tasks, later half less earlier half: {method_name(method, c)}"
            told = _reading(what, rises, above=True)
            rows.append(Row(what, "-", told.ours) if c else told)
    measures: dict[str, Callable[[_Matrix], float]] = {
        "the two tasks most alike": lambda matrix: max(_apart(matrix, 1, len(matrix))),
        "neighbouring tasks, mean": lambda matrix: fmean(_apart(matrix, 1, 1)),
        "tasks five or more apart, mean": lambda matrix: fmean(_apart(matrix, 5, len(matrix))),
        "all pairs of tasks, mean": _of_pairs,
    }
    if without and len(_second_layer(without[0])) < 6:
        del measures["tasks five or more apart, mean"]
    for (method, c), held in runs.items():
        by_seed = {run.seed: run for run in without}
        pairs = [(run, by_seed[run.seed]) for run in held if run.seed in by_seed and c]
        pairs = [(run, free) for run, free in pairs if run.accuracy[0] == free.accuracy[0]]  # of one first task
        for name, measure in measures.items() if pairs else ():
            changes = [measure(_second_layer(run)) - measure(_second_layer(free)) for run, free in pairs]
            what = f"second layer, {name}: {method_name(method, c)} less c = 0"
            told = _reading(what, changes, above=False)
            rows.append(told if (method, c) == ("si", _PAPERS) else Row(what, "-", told.ours))
    if without and len(without[0].path_correlation) > 1:
        lower = [_of_pairs(_first_layer(run)) - _of_pairs(_second_layer(run)) for run in without]
        what = "first layer less second layer, all pairs of tasks, mean: without synapses (c = 0)"
        rows.append(_reading(what, lower, above=False))
    return rows


def _reading(what: str, values: list[float], *, above: bool) -> Row:
    """Return the row of a claim that a number lies above or below zero, and whether it does."""
    estimate = mean_and_interval(values)
    # What is zero as far as it is shown decides nothing.
    open_still = abs(estimate.mean) <= (0.0005 if estimate.half_width is None else estimate.half_width)
    verdict = "undecided" if open_still else "agrees" if (estimate.mean > 0) is above else "disagrees"
    if estimate.half_width is None and not open_still:
        verdict += ", one seed"
    expected = f"{'above' if above else 'below'} 0"
    return Row(what, expected, f"{estimate} {_seeds(len(values))}", verdict)


def _seeds(count: int) -> str:
    return f"({seeds_shown(count)})"


def _first_layer(run: Run) -> _Matrix:
    return next(iter(run.path_correlation.values()))


def _second_layer(run: Run) -> _Matrix:
    matrices = list(run.path_correlation.values())
    return matrices[min(1, len(matrices) - 1)]


def _of_pairs(matrix: _Matrix) -> float:
    return fmean([value for i, row in enumerate(matrix) for value in row[:i]] or [0.0])


def _apart(matrix: _Matrix, least: int, most: int) -> list[float]:
    return [row[j] for i, row in enumerate(matrix) for j in range(i) if least <= i - j <= most] or [0.0]


def _earlier(matrix: _Matrix) -> float:
    values = _apart(matrix, 1, 1)
    return fmean(values[: len(values) // 2])


def _later(matrix: _Matrix) -> float:
    values = _apart(matrix, 1, 1)
    return fmean(values[-(len(values) // 2) :])
