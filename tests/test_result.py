from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from synaptic_intelligence.document import ResultError
from synaptic_intelligence.result import Result, Run, read_result, write_result

THIRD = 1 / 3


def a_run(seed: int = 0, c: float | None = 1.0, rows: int = 2, method: str = "si", **changes: Any) -> Run:
    run = Run(
        seed=seed,
        method=method,
        c=c,
        accuracy=[[1.0, THIRD], [0.1 + 0.2, 5e-324]][:rows],
        baseline=[0.5, 0.0],
        task_seconds=[1.25, 1e-9][:rows],
        train_accuracy=[1.0, 0.99][:rows],
        final_train_accuracy=[0.75, THIRD] if rows == 2 else [],
        path_correlation={"0.weight": [[1.0], [-THIRD, 1.0]][:rows], "2.weight": [[1.0], [5e-324, 1.0]][:rows]},
    )
    return dataclasses.replace(run, **changes)


def joint_run(seed: int = 0, rows: int = 1, **changes: Any) -> Run:
    """A run that learns all tasks at once."""
    run = a_run(seed, None, rows, "joint", path_correlation={}, final_train_accuracy=[0.5, 1.0][: 2 * rows])
    return dataclasses.replace(run, **changes)


def a_result(runs: list[Run] | None = None, **changes: Any) -> Result:
    return dataclasses.replace(
        Result(
            experiment="split-mnist",
            title="Split MNIST: Größe «5»",
            settings={"lr": 1e-3, "hidden": [256, 256], "fresh": True, "folder": None, "nested": {"a b": "ü"}},
            deviations=["2 epochs instead of 10"],
            task_names=["0 or 1", "2 or 3"],
            runs=[a_run(0, 0.0), a_run(0, 1.0), a_run(1, 0.0), a_run(1, 1.0)] if runs is None else runs,
            planned_runs=4,
            environment={"torch": "2.13.0", "threads": 2},
            command="synaptic run split-mnist",
            started="2025-01-31T12:00:00+00:00",
            wall_seconds=12.5,
            chance=0.5,
        ),
        **changes,
    )


def document(tmp_path: Path, result: Result | None = None) -> tuple[Path, dict[str, Any]]:
    """A file with a good result, and its content, to be damaged."""
    path = tmp_path / "result.json"
    write_result(result or a_result(), path)
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return path, content


@pytest.mark.parametrize(
    "result",
    [
        a_result(),
        a_result(runs=[]),
        a_result(runs=[a_run(rows=0), a_run(seed=1, rows=1)]),
        a_result(deviations=[]),
        a_result(runs=[a_run(), joint_run(), a_run(c=None, method="scratch"), a_run(c=0.3, method="a new one: Größe")]),
        a_result(runs=[a_run(path_correlation={}, final_train_accuracy=[]), joint_run(rows=0)]),
    ],
    ids=["complete", "no runs yet", "unfinished runs", "the protocol", "rivals", "what may be empty"],
)
def test_a_result_comes_back_exactly(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "result.json"
    write_result(result, path)
    assert read_result(path) == result


def test_writing_a_result_again_gives_the_same_bytes(tmp_path: Path) -> None:
    write_result(a_result(), tmp_path / "first.json")
    write_result(read_result(tmp_path / "first.json"), tmp_path / "second.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()


def test_an_integer_c_is_the_number_it_says(tmp_path: Path) -> None:
    path, content = document(tmp_path)
    content["runs"][1]["c"] = 1
    path.write_text(json.dumps(content))
    c = read_result(path).runs[1].c
    assert c == 1.0
    assert isinstance(c, float)


@pytest.mark.parametrize(
    ("runs", "complete", "complete_runs"),
    [
        ([], False, 0),
        ([a_run(0), a_run(1)], True, 2),
        ([a_run(0)], False, 1),
        ([a_run(0), a_run(1, rows=1)], False, 1),
        ([a_run(0), joint_run(0)], True, 2),
        ([a_run(0), joint_run(0, rows=0)], False, 1),
        ([a_run(0, rows=1), joint_run(0)], False, 1),
    ],
)
def test_complete_means_every_planned_run_has_every_task(runs: list[Run], complete: bool, complete_runs: int) -> None:
    result = a_result(runs=runs, planned_runs=2)
    assert result.complete is complete
    assert len(result.complete_runs) == complete_runs


FINAL, PATHS, W = "final_train_accuracy", "path_correlation", "2.weight"
HERE = "runs[3].path_correlation.2.weight"

DAMAGE: list[tuple[list[str | int], Any, str]] = [
    (["schema"], 3, "schema: the file has schema version 3, this library reads versions up to 2"),
    (["schema"], 0, "schema: the file has schema version 0, this library reads versions up to 2"),
    (["schema"], True, "schema: the file has schema version true, this library reads versions up to 2"),
    (["schema"], None, "schema: the file has schema version null, this library reads versions up to 2"),
    (["format"], "other", "not a result file of synaptic-intelligence"),
    (["experiment"], 3, "experiment: expected a string, got 3"),
    (["settings"], [1], "settings: expected an object, got [1]"),
    (["settings", "lr"], math.nan, "settings.lr: expected a finite number, got nan"),
    (["settings", "hidden", 1], math.inf, "settings.hidden[1]: expected a finite number, got inf"),
    (["deviations"], "none", "deviations: expected a list, got 'none'"),
    (["task_names"], [], "task_names: expected at least one task"),
    (["task_names", 1], 2, "task_names[1]: expected a string, got 2"),
    (["runs", 3, "seed"], -1, "runs[3].seed: expected 0 or more, got -1"),
    (["runs", 3, "seed"], True, "runs[3].seed: expected a whole number, got true"),
    (["runs", 3, "seed"], 1.5, "runs[3].seed: expected a whole number, got 1.5"),
    (["runs", 3, "c"], -0.5, "runs[3].c: expected 0 or more, got -0.5"),
    (["runs", 3, "c"], "1", "runs[3].c: expected a number, got '1'"),
    (["runs", 3, "c"], True, "runs[3].c: expected a number, got true"),
    (["runs", 3, "method"], None, "runs[3].method: expected a string, got null"),
    (["runs", 3, "method"], 3, "runs[3].method: expected a string, got 3"),
    (["runs", 3, "method"], "joint", "runs[3].accuracy: has 2 rows, but there is one for each of 1 task(s)"),
    (["runs", 3, "c"], 10**400, "runs[3].c: the number is too large"),
    (
        ["runs", 3, "accuracy"],
        [[1.0, 1.0]] * 3,
        "runs[3].accuracy: has 3 rows, but there is one for each of 2 task(s) at most",
    ),
    (["runs", 3, "accuracy", 1], [0.5], "runs[3].accuracy[1]: expected 2 numbers, one for each task, got 1"),
    (["runs", 3, "accuracy", 1, 0], 97.5, "runs[3].accuracy[1][0]: expected a number from 0 to 1, got 97.5"),
    (["runs", 3, "accuracy", 1, 0], math.nan, "runs[3].accuracy[1][0]: expected a finite number, got nan"),
    (["runs", 3, "accuracy", 1, 0], False, "runs[3].accuracy[1][0]: expected a number, got false"),
    (["runs", 3, "accuracy", 1, 0], None, "runs[3].accuracy[1][0]: expected a number, got null"),
    (["runs", 3, "baseline"], [], "runs[3].baseline: expected 2 numbers, one for each task, got 0"),
    (["runs", 3, "task_seconds"], [1.0], "runs[3].task_seconds: expected 2 numbers, one for each row of accuracy"),
    (["runs", 3, "train_accuracy", 0], 1.01, "runs[3].train_accuracy[0]: expected a number from 0 to 1, got 1.01"),
    (["runs", 3, "accuracy", 0, 1], -0.1, "runs[3].accuracy[0][1]: expected a number from 0 to 1, got -0.1"),
    (["runs", 3, "baseline", 1], -1e-9, "runs[3].baseline[1]: expected a number from 0 to 1, got -1e-09"),
    (["runs", 3, "task_seconds", 1], -1, "runs[3].task_seconds[1]: expected 0 or more, got -1"),
    (["runs", 3, "train_accuracy", 0], -0.5, "runs[3].train_accuracy[0]: expected a number from 0 to 1, got -0.5"),
    (["runs", 3, FINAL], [1.0], "runs[3].final_train_accuracy: expected 2 numbers, one for each task, got 1"),
    (["runs", 3, FINAL, 1], -0.5, "runs[3].final_train_accuracy[1]: expected a number from 0 to 1, got -0.5"),
    (["runs", 3, FINAL, 1], 1.5, "runs[3].final_train_accuracy[1]: expected a number from 0 to 1, got 1.5"),
    (["runs", 3, FINAL], None, "runs[3].final_train_accuracy: expected a list, got null"),
    (["runs", 3, PATHS], [], "runs[3].path_correlation: expected an object, got []"),
    (["runs", 3, PATHS, W], [[1.0]], f"{HERE}: expected 2 numbers, one for each row of accuracy, got 1"),
    (["runs", 3, PATHS, W, 1], [1.0], f"{HERE}: row 1 has 1 number(s), not one for each of the 2 task(s) so far"),
    (["runs", 3, PATHS, W, 0], [1.0, 0.5], f"{HERE}: row 0 has 2 number(s), not one for each of the 1 task(s) so far"),
    (
        ["runs", 3, PATHS, W, 1],
        [0.5, 1.0, 0.5],
        f"{HERE}: row 1 has 3 number(s), not one for each of the 2 task(s) so far",
    ),
    (["runs", 3, PATHS, W, 1], 1.0, f"{HERE}[1]: expected a list, got 1.0"),
    (["runs", 3, PATHS, W, 1, 0], -1.001, f"{HERE}[1][0]: expected a number from -1 to 1, got -1.001"),
    (["runs", 3, PATHS, W, 1, 0], 1.001, f"{HERE}[1][0]: expected a number from -1 to 1, got 1.001"),
    (["runs", 3, PATHS, W, 1, 0], math.nan, f"{HERE}[1][0]: expected a finite number, got nan"),
    (["runs", 3, PATHS, W, 1, 0], None, f"{HERE}[1][0]: expected a number, got null"),
    (["runs", 3, "weights"], [], "runs[3].weights: unknown field in a file of this schema version"),
    (["runs", 3], "x" * 99, "runs[3]: expected an object, got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."),
    (["runs", 2, "c"], 1.0, "runs: runs[3] has the seed, method and c of runs[2]: seed 1, si, c 1"),
    (["planned_runs"], 0, "planned_runs: expected 1 or more, got 0"),
    (["planned_runs"], 3, "runs: holds 4 runs, but planned_runs is 3"),
    (["started"], "yesterday", "started: expected an ISO 8601 time in UTC"),
    (["started"], "2025-01-31T12:00:00", "started: expected an ISO 8601 time in UTC"),
    (["started"], "2025-01-31T12:00:00+01:00", "started: expected an ISO 8601 time in UTC"),
    (["wall_seconds"], -1.0, "wall_seconds: expected 0 or more, got -1.0"),
    (["chance"], 2, "chance: expected a number from 0 to 1, got 2"),
    (["colour"], "blue", "colour: unknown field in a file of this schema version"),
]


@pytest.mark.parametrize(("where", "value", "message"), DAMAGE, ids=[m.partition(":")[0] for *_, m in DAMAGE])
def test_a_damaged_field_is_named(tmp_path: Path, where: list[Any], value: Any, message: str) -> None:
    path, content = document(tmp_path)
    *parents, last = where
    target: Any = content
    for name in parents:
        target = target[name]
    target[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Result)])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    path, content = document(tmp_path)
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=f"the document: the field '{name}' is missing"):
        read_result(path)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Run)])
def test_a_missing_field_of_a_run_is_named(tmp_path: Path, name: str) -> None:
    path, content = document(tmp_path)
    del content["runs"][3][name]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=rf"runs\[3\]: the field '{name}' is missing"):
        read_result(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not readable as JSON"),
        (b'{"format": "synaptic-intelligence result", "sch', "damaged or cut off"),
        (b"\xff\xfe{}", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"format": 1, "format": 2}', "the name 'format' appears twice"),
        (b"[]", "not a result file of synaptic-intelligence"),
        (b"null", "not a result file of synaptic-intelligence"),
        (b'{"accuracy": [0.9]}', "not a result file of synaptic-intelligence"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=problem) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_result(tmp_path / "missing.json")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path, _ = document(tmp_path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError):
            read_result(path)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"wall_seconds": math.nan}, "wall_seconds: expected a finite number"),
    ({"runs": [a_run(baseline=[math.inf, 0.5])]}, r"runs\[0\].baseline\[0\]: expected a finite"),
    ({"settings": {"path": Path("x")}}, "settings.path: JSON cannot hold"),
    ({"settings": {1: "x"}}, "settings: expected names that are strings, got 1"),
    ({"runs": [a_run(accuracy=[[0.5]])]}, r"runs\[0\].accuracy\[0\]: expected 2 numbers"),
    ({"runs": [a_run(path_correlation={"w": [[1.0]]})]}, r"runs\[0\].path_correlation.w: expected 2 numbers"),
    (
        {"runs": [a_run(path_correlation={"w": [[1.0], [-2.0, 1.0]]})]},
        r"runs\[0\].path_correlation.w\[1\]\[0\]: expected a",
    ),
    ({"runs": [a_run(final_train_accuracy=[0.5])]}, r"runs\[0\].final_train_accuracy: expected 2 numbers"),
    ({"runs": [joint_run(accuracy=[[0.5, 0.5]] * 2)]}, r"runs\[0\].accuracy: has 2 rows"),
    ({"runs": [joint_run(), joint_run()]}, r"runs: runs\[1\] has the seed, method and c of .*: seed 0, joint$"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_result_is_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path, _ = document(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ResultError, match=f"cannot write this result: {message}"):
        write_result(a_result(**changes), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_result(a_result(), tmp_path / "missing" / "result.json")


def first_version(tmp_path: Path, result: Result) -> tuple[Path, dict[str, Any]]:
    """A file as the first version of the schema had it, and its content: runs without what is new since."""
    path, content = document(tmp_path, result)
    content["schema"] = 1
    for run in content["runs"]:
        for name in ("method", "final_train_accuracy", "path_correlation"):
            del run[name]
    path.write_text(json.dumps(content))
    return path, content


def test_a_file_of_the_first_version_is_read_as_runs_of_synapses(tmp_path: Path) -> None:
    runs = [a_run(0, 0.0), a_run(0, 1.0), a_run(1, 0.0, rows=1)]
    path, _ = first_version(tmp_path, a_result(runs=runs))
    read = read_result(path)
    assert [run.method for run in read.runs] == ["si"] * 3
    old = [dataclasses.replace(run, final_train_accuracy=[], path_correlation={}) for run in runs]
    assert read == a_result(runs=old)
    # Written again it is a file of today, with the same content.
    write_result(read, path)
    assert json.loads(path.read_text("utf-8"))["schema"] == 2
    assert read_result(path) == read


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["runs", 1, "accuracy", 0, 0], -0.5, "runs[1].accuracy[0][0]: expected a number from 0 to 1, got -0.5"),
        (["runs", 1, "c"], "1", "runs[1].c: expected a number, got '1'"),
        (["runs", 1, "weights"], [], "runs[1].weights: unknown field"),
        (["runs", 1], 3, "runs[1]: expected an object, got 3"),
        (["runs"], 3, "runs: expected a list, got 3"),
        (["schema"], 1.5, "schema: the file has schema version 1.5, this library reads versions up to 2"),
        (["format"], "synaptic-intelligence findings", "not a result file of synaptic-intelligence"),
    ],
)
def test_a_damaged_file_of_the_first_version_is_refused_by_field(
    tmp_path: Path, where: list[Any], value: Any, message: str
) -> None:
    path, content = first_version(tmp_path, a_result())
    target: Any = content
    for name in where[:-1]:
        target = target[name]
    target[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", ["seed", "c", "accuracy", "baseline", "task_seconds", "train_accuracy"])
def test_a_missing_field_in_a_file_of_the_first_version_is_named(tmp_path: Path, name: str) -> None:
    path, content = first_version(tmp_path, a_result())
    del content["runs"][2][name]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=rf"runs\[2\]: the field '{name}' is missing"):
        read_result(path)


def test_a_run_of_all_tasks_at_once_has_one_row(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert (a_run().stages, a_run(method="scratch").stages, joint_run().stages) == (2, 2, 1)
    write_result(a_result(runs=[joint_run(0), joint_run(1)], planned_runs=2), path)
    result = read_result(path)
    assert result.complete
    assert [run.accuracy for run in result.runs] == [[[1.0, THIRD]]] * 2
    assert [run.c for run in result.runs] == [None, None]
