"""The result file: one experiment's settings, accuracies and environment as one JSON file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from synaptic_intelligence.document import JSON, Value, exact, read_document, write_document

__all__ = ["APART", "AT_ONCE", "Result", "Run", "SCHEMA_VERSION", "read_result", "write_result"]

SCHEMA_VERSION = 2
"""The version of the result file that this library writes; it reads version 1 too, whose runs are all of method si."""

AT_ONCE = "joint"
"""The method that learns all tasks at once."""

APART = "scratch"
"""The method that learns each task with a network of its own."""

_FORMAT = "synaptic-intelligence result"


@final
@dataclass(frozen=True)
class Run:
    """One training run through the stream of tasks: one seed, one method.

    Args:
        seed: seed of the run, not negative.
        method: how the tasks were learnt: ``si`` (synaptic intelligence), or the name of a rival.
        c: strength of the pull, not negative; 0 is a run without synapses, None a method that has no strength.
        accuracy: the accuracy matrix so far, ``accuracy[i][j]`` on task j after training task i, fractions;
            every row holds all tasks. The method ``joint``, which learns all tasks at once, has one row.
        baseline: accuracy of the untrained network on every task, fractions.
        task_seconds: wall time of every task trained so far, seconds.
        train_accuracy: training accuracy in the last epoch of every task trained so far, fractions.
        final_train_accuracy: accuracy on the training examples of every task at the end of the run, fractions; empty
            before that, and in files that are older than this field.
        path_correlation: for each weight matrix the correlations of the tasks' path integrals, ``[i][j]`` for
            j <= i; empty where they were not compared.

    Example:
        >>> run = Run(seed=0, method="si", c=1.0, accuracy=[[0.99, 0.5], [0.98, 0.97]], baseline=[0.5, 0.5],
        ...           task_seconds=[1.0, 1.1], train_accuracy=[0.99, 0.98])
        >>> run.accuracy[-1]
        [0.98, 0.97]
    """

    seed: int
    method: str
    c: float | None
    accuracy: list[list[float]]
    baseline: list[float]
    task_seconds: list[float]
    train_accuracy: list[float]
    final_train_accuracy: list[float] = field(default_factory=list)
    path_correlation: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        """How many rows the accuracy matrix has at the end: one for each task, or one for all tasks at once.

        Example:
            >>> Run(seed=0, method="joint", c=None, accuracy=[[0.9, 0.9]], baseline=[0.5, 0.5],
            ...     task_seconds=[1.0], train_accuracy=[0.99]).stages
            1
        """
        return 1 if self.method == AT_ONCE else len(self.baseline)


@final
@dataclass(frozen=True)
class Result:
    """An experiment's outcome: what was run, how, where, and every accuracy matrix.

    Args:
        experiment: name on the command line, such as ``split-mnist``.
        title: name for people, such as ``Split MNIST``.
        settings: every setting by name.
        deviations: ways in which this differs from the paper's protocol; empty: it is the protocol.
        task_names: names of the tasks, in the order of training.
        runs: the runs so far, also those that are not finished.
        planned_runs: number of runs that a finished experiment has.
        environment: versions, device, threads and so on, by name.
        command: the command that made this result.
        started: when it started, ISO 8601 in UTC.
        wall_seconds: how long it took, without the pauses between a stop and a resumption, seconds.
        chance: accuracy of guessing on one task, a fraction.

    Example:
        >>> result = Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={"epochs": 10}, deviations=[],
        ...     task_names=["0 or 1", "2 or 3"], runs=[], planned_runs=2, environment={"torch": "2.13.0"},
        ...     command="synaptic run split-mnist", started="2025-01-31T12:00:00+00:00", wall_seconds=0.0,
        ...     chance=0.5)
        >>> result.complete
        False
    """

    experiment: str
    title: str
    settings: dict[str, JSON]
    deviations: list[str]
    task_names: list[str]
    runs: list[Run]
    planned_runs: int
    environment: dict[str, JSON]
    command: str
    started: str
    wall_seconds: float
    chance: float

    @property
    def complete_runs(self) -> list[Run]:
        """The runs that have trained every task.

        Example:
            >>> half = Run(seed=0, method="si", c=1.0, accuracy=[[0.99, 0.5]], baseline=[0.5, 0.5],
            ...            task_seconds=[1.0], train_accuracy=[0.99])
            >>> whole = Run(seed=1, method="si", c=1.0, accuracy=[[0.99, 0.5], [0.98, 0.97]], baseline=[0.5, 0.5],
            ...             task_seconds=[1.0, 1.1], train_accuracy=[0.99, 0.98])
            >>> result = Result(
            ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
            ...     task_names=["0 or 1", "2 or 3"], runs=[half, whole], planned_runs=2, environment={},
            ...     command="synaptic run", started="2025-01-31T12:00:00+00:00", wall_seconds=3.1, chance=0.5)
            >>> [run.seed for run in result.complete_runs]
            [1]
        """
        return [run for run in self.runs if len(run.accuracy) == run.stages]

    @property
    def complete(self) -> bool:
        """Whether every planned run has trained every task.

        Example:
            >>> run = Run(seed=0, method="si", c=1.0, accuracy=[[0.99]], baseline=[0.5], task_seconds=[1.0],
            ...           train_accuracy=[0.99])
            >>> Result(
            ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[], task_names=["0 or 1"],
            ...     runs=[run], planned_runs=1, environment={}, command="synaptic run",
            ...     started="2025-01-31T12:00:00+00:00", wall_seconds=1.0, chance=0.5).complete
            True
        """
        return len(self.complete_runs) == self.planned_runs


def write_result(result: Result, path: Path) -> None:
    """Write a result to a JSON file in one step: a reader sees the old file or the new one, never a half.

    Raises:
        ResultError: a field does not hold what its description says (a NaN, a row of the wrong length, ...);
            the file that was there stays.
        OSError: the folder does not exist, is read-only or is full; the file that was there stays.

    Example:
        >>> import tempfile
        >>> result = Result(
        ...     experiment="split-mnist", title="Split MNIST", settings={}, deviations=[],
        ...     task_names=["0 or 1"], runs=[], planned_runs=1, environment={}, command="synaptic run",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=0.0, chance=0.5)
        >>> path = Path(tempfile.mkdtemp()) / "result.json"
        >>> write_result(result, path)
        >>> read_result(path) == result
        True
    """
    document = {"format": _FORMAT, "schema": SCHEMA_VERSION, **dataclasses.asdict(result)}
    _result(Value(document, "", "cannot write this result: "))
    write_document(document, path)


def read_result(path: Path) -> Result:
    """Read a result file, and check every field of it.

    Raises:
        ResultError: the file is damaged, is no result file, or has another schema version; the message names
            the file, the field (such as ``runs[3].accuracy[2]``) and the problem.
        OSError: the file cannot be opened.

    Example:
        >>> import tempfile
        >>> from synaptic_intelligence.document import ResultError
        >>> path = Path(tempfile.mkdtemp()) / "result.json"
        >>> _ = path.write_text('{"accuracy": 0.9}')
        >>> try:
        ...     read_result(path)
        ... except ResultError as error:
        ...     print(str(error).removeprefix(f"{path}: "))
        not a result file of synaptic-intelligence (it has no "format": "synaptic-intelligence result")
    """
    return _result(read_document(path))


def _result(document: Value) -> Result:
    value = document.value
    if isinstance(value, dict) and type(value.get("schema")) is int and value["schema"] == 1:
        document = Value(_upgraded(document, value), document.field, document.file)
    names = tuple(field.name for field in dataclasses.fields(Result))
    field = document.versioned(_FORMAT, SCHEMA_VERSION, names)
    task_names = field["task_names"].items(Value.string)
    if not task_names:
        field["task_names"].fail("expected at least one task")
    planned_runs = field["planned_runs"].integer(1)
    runs = field["runs"].items(lambda item: _run(item, len(task_names)))
    if len(runs) > planned_runs:
        field["runs"].fail(f"holds {len(runs)} runs, but planned_runs is {planned_runs}")
    first: dict[tuple[int, str, float | None], int] = {}
    for i, run in enumerate(runs):
        if (j := first.setdefault((run.seed, run.method, run.c), i)) != i:
            strength = "" if run.c is None else f", c {exact(run.c)}"
            field["runs"].fail(
                f"runs[{i}] has the seed, method and c of runs[{j}]: seed {run.seed}, {run.method}{strength}"
            )
    return Result(
        experiment=field["experiment"].string(),
        title=field["title"].string(),
        settings=field["settings"].json_object(),
        deviations=field["deviations"].items(Value.string),
        task_names=task_names,
        runs=runs,
        planned_runs=planned_runs,
        environment=field["environment"].json_object(),
        command=field["command"].string(),
        started=field["started"].utc(),
        wall_seconds=field["wall_seconds"].number(),
        chance=field["chance"].fraction(),
    )


def _upgraded(document: Value, value: dict[str, object]) -> dict[str, object]:
    """Return a document of version 1 as one of version 2: its runs named no method, as there was one alone."""
    new: dict[str, object] = {"method": "si", "final_train_accuracy": [], "path_correlation": {}}
    runs = value.get("runs")
    if isinstance(runs, list):
        for i, run in enumerate(runs):
            for name in new.keys() & run.keys() if isinstance(run, dict) else ():
                Value(None, f"runs[{i}].{name}", document.file).fail("unknown field in a file of this schema version")
        runs = [{**new, **run} if isinstance(run, dict) else run for run in runs]
    return {**value, "schema": SCHEMA_VERSION, "runs": runs}


def _run(document: Value, tasks: int) -> Run:
    field = document.record(tuple(field.name for field in dataclasses.fields(Run)))
    method, c = field["method"].string(), field["c"]
    stages = 1 if method == AT_ONCE else tasks
    accuracy = field["accuracy"].items(lambda row: row.items(Value.fraction, tasks, "task"))
    if len(accuracy) > stages:
        field["accuracy"].fail(f"has {len(accuracy)} rows, but there is one for each of {stages} task(s) at most")
    trained = "row of accuracy"
    final = field["final_train_accuracy"]
    correlations = field["path_correlation"].members()
    return Run(
        seed=field["seed"].integer(0),
        method=method,
        c=None if c.value is None else c.number(),
        accuracy=accuracy,
        baseline=field["baseline"].items(Value.fraction, tasks, "task"),
        task_seconds=field["task_seconds"].items(Value.number, len(accuracy), trained),
        train_accuracy=field["train_accuracy"].items(Value.fraction, len(accuracy), trained),
        final_train_accuracy=final.items(Value.fraction, tasks if final.value != [] else None, "task"),
        path_correlation={name: _correlations(value, len(accuracy)) for name, value in correlations.items()},
    )


def _correlations(document: Value, tasks: int) -> list[list[float]]:
    rows = document.items(lambda row: row.items(Value.correlation), tasks, "row of accuracy")
    for i, row in enumerate(rows):
        if len(row) != i + 1:
            document.fail(f"row {i} has {len(row)} number(s), not one for each of the {i + 1} task(s) so far")
    return rows
