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


def a_run(seed: int = 0, c: float = 1.0, rows: int = 2) -> Run:
    return Run(
        seed=seed,
        c=c,
        accuracy=[[1.0, THIRD], [0.1 + 0.2, 5e-324]][:rows],
        baseline=[0.5, 0.0],
        task_seconds=[1.25, 1e-9][:rows],
        train_accuracy=[1.0, 0.99][:rows],
    )


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
    [a_result(), a_result(runs=[]), a_result(runs=[a_run(rows=0), a_run(seed=1, rows=1)]), a_result(deviations=[])],
    ids=["complete", "no runs yet", "unfinished runs", "the protocol"],
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
    ],
)
def test_complete_means_every_planned_run_has_every_task(runs: list[Run], complete: bool, complete_runs: int) -> None:
    result = a_result(runs=runs, planned_runs=2)
    assert result.complete is complete
    assert len(result.complete_runs) == complete_runs


DAMAGE: list[tuple[list[str | int], Any, str]] = [
    (["schema"], 2, "schema: the file has schema version 2, this library reads version 1"),
    (["schema"], True, "schema: the file has schema version true, this library reads version 1"),
    (["schema"], None, "schema: the file has schema version null, this library reads version 1"),
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
    (["runs", 3, "c"], 10**400, "runs[3].c: the number is too large"),
    (["runs", 3, "accuracy"], [[1.0, 1.0]] * 3, "runs[3].accuracy: has 3 rows, but there are 2 tasks"),
    (["runs", 3, "accuracy", 1], [0.5], "runs[3].accuracy[1]: expected 2 numbers, one for each task, got 1"),
    (["runs", 3, "accuracy", 1, 0], 97.5, "runs[3].accuracy[1][0]: expected a number from 0 to 1, got 97.5"),
    (["runs", 3, "accuracy", 1, 0], math.nan, "runs[3].accuracy[1][0]: expected a finite number, got nan"),
    (["runs", 3, "accuracy", 1, 0], False, "runs[3].accuracy[1][0]: expected a number, got false"),
    (["runs", 3, "accuracy", 1, 0], None, "runs[3].accuracy[1][0]: expected a number, got null"),
    (["runs", 3, "baseline"], [], "runs[3].baseline: expected 2 numbers, one for each task, got 0"),
    (["runs", 3, "task_seconds"], [1.0], "runs[3].task_seconds: expected 2 numbers, one for each row of accuracy"),
    (["runs", 3, "train_accuracy", 0], 1.01, "runs[3].train_accuracy[0]: expected a number from 0 to 1, got 1.01"),
    (["runs", 3, "weights"], [], "runs[3].weights: unknown field in a result file of schema version 1"),
    (["runs", 3], "x" * 99, "runs[3]: expected an object, got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."),
    (["runs", 2, "c"], 1.0, "runs: runs[3] has the seed and c of runs[2]: seed 1, c 1"),
    (["planned_runs"], 0, "planned_runs: expected 1 or more, got 0"),
    (["planned_runs"], 3, "runs: holds 4 runs, but planned_runs is 3"),
    (["started"], "yesterday", "started: expected an ISO 8601 time in UTC"),
    (["started"], "2025-01-31T12:00:00", "started: expected an ISO 8601 time in UTC"),
    (["started"], "2025-01-31T12:00:00+01:00", "started: expected an ISO 8601 time in UTC"),
    (["wall_seconds"], -1.0, "wall_seconds: expected 0 or more, got -1.0"),
    (["chance"], 2, "chance: expected a number from 0 to 1, got 2"),
    (["colour"], "blue", "colour: unknown field in a result file of schema version 1"),
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
    ({"runs": [dataclasses.replace(a_run(), baseline=[math.inf, 0.5])]}, r"runs\[0\].baseline\[0\]: expected a finite"),
    ({"settings": {"path": Path("x")}}, "settings.path: JSON cannot hold"),
    ({"settings": {1: "x"}}, "settings: expected names that are strings, got 1"),
    ({"runs": [dataclasses.replace(a_run(), accuracy=[[0.5]])]}, r"runs\[0\].accuracy\[0\]: expected 2 numbers"),
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
