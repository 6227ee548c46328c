"""A findings file gives back what was written, and whatever else is in one is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from synaptic_intelligence.document import ResultError
from synaptic_intelligence.findings import Findings, read_findings, write_findings


def some_findings(**changes: Any) -> Findings:
    return dataclasses.replace(
        Findings(
            experiment="quadratic",
            title="A quadratic loss: Größe «5»",
            settings={"seeds": 3, "noise": 1e-3, "sizes": [10, 50], "folder": None},
            deviations=["10 steps instead of 100"],
            numbers={
                "error": 5e-324,
                "third": 1 / 3,
                "negative": -0.1 - 0.2,
                "count": 2**60,
                "curve": [0.0, 1.5, [None, True]],
                "by name": {"a b": {"ü": -1}},
            },
            environment={"torch": "2.13.0", "threads": 2},
            command="synaptic run quadratic",
            started="2025-01-31T12:00:00+00:00",
            wall_seconds=12.5,
        ),
        **changes,
    )


def document(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file with good findings, and its content, to be damaged."""
    path = tmp_path / "findings.json"
    write_findings(some_findings(), path)
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return path, content


@pytest.mark.parametrize("changes", [{}, {"numbers": {}, "settings": {}, "deviations": [], "environment": {}}])
def test_findings_come_back_exactly(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "findings.json"
    write_findings(some_findings(**changes), path)
    assert read_findings(path) == some_findings(**changes)
    # Exactly also where == is lenient: 1 and 1.0, or True.
    assert repr(read_findings(path)) == repr(some_findings(**changes))
    write_findings(read_findings(path), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_findings_file_is_plain_json_that_says_what_it_is(tmp_path: Path) -> None:
    _, content = document(tmp_path)
    assert (content["format"], content["schema"]) == ("synaptic-intelligence findings", 1)
    assert content["numbers"]["third"] == 1 / 3
    assert set(content) == {"format", "schema", *(field.name for field in dataclasses.fields(Findings))}


DAMAGE: list[tuple[list[str | int], Any, str]] = [
    (["schema"], 2, "schema: the file has schema version 2, this library reads versions up to 1"),
    (["schema"], "1", "schema: the file has schema version '1', this library reads versions up to 1"),
    (["schema"], True, "schema: the file has schema version true, this library reads versions up to 1"),
    (["schema"], None, "schema: the file has schema version null, this library reads versions up to 1"),
    (["format"], "synaptic-intelligence result", "not a findings file of synaptic-intelligence"),
    (["experiment"], 3, "experiment: expected a string, got 3"),
    (["title"], None, "title: expected a string, got null"),
    (["settings"], [1], "settings: expected an object, got [1]"),
    (["settings", "sizes", 1], math.inf, "settings.sizes[1]: expected a finite number, got inf"),
    (["deviations"], "none", "deviations: expected a list, got 'none'"),
    (["deviations", 0], 1, "deviations[0]: expected a string, got 1"),
    (["numbers"], [1.0], "numbers: expected an object, got [1.0]"),
    (["numbers", "error"], math.nan, "numbers.error: expected a finite number, got nan"),
    (["numbers", "curve", 1], -math.inf, "numbers.curve[1]: expected a finite number, got -inf"),
    (["numbers", "by name", "a b", "ü"], math.nan, "numbers.by name.a b.ü: expected a finite number, got nan"),
    (["environment"], "here", "environment: expected an object, got 'here'"),
    (["command"], ["synaptic"], "command: expected a string, got ['synaptic']"),
    (["started"], "2025-01-31T12:00:00", "started: expected an ISO 8601 time in UTC"),
    (["wall_seconds"], -1.0, "wall_seconds: expected 0 or more, got -1.0"),
    (["wall_seconds"], "12", "wall_seconds: expected a number, got '12'"),
    (["runs"], [], "runs: unknown field in a file of this schema version"),
]


@pytest.mark.parametrize(("where", "value", "message"), DAMAGE, ids=[m.partition(":")[0] for *_, m in DAMAGE])
def test_a_damaged_field_is_named(tmp_path: Path, where: list[Any], value: Any, message: str) -> None:
    path, content = document(tmp_path)
    target: Any = content
    for name in where[:-1]:
        target = target[name]
    target[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError) as caught:
        read_findings(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", ["format", "schema", *(field.name for field in dataclasses.fields(Findings))])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    path, content = document(tmp_path)
    del content[name]
    path.write_text(json.dumps(content))
    problems = {"format": "not a findings file", "schema": "schema: the file has schema version null"}
    with pytest.raises(ResultError) as caught:
        read_findings(path)
    expected = problems.get(name, f"the document: the field '{name}' is missing")
    assert str(caught.value).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not readable as JSON"),
        (b'{"format": "synaptic-intelligence findings", "sch', "damaged or cut off"),
        (b"\xff\xfe{}", "not readable as JSON"),
        (b'{"format": 1, "format": 2}', "the name 'format' appears twice"),
        (b"[]", "not a findings file of synaptic-intelligence"),
        (b'{"accuracy": [0.9]}', "not a findings file of synaptic-intelligence"),
    ],
)
def test_a_file_that_holds_no_findings_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "findings.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=problem) as caught:
        read_findings(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": {"error": math.nan}}, r"numbers\.error: expected a finite number, got nan"),
        ({"numbers": {"curve": [1.0, math.inf]}}, r"numbers\.curve\[1\]: expected a finite number, got inf"),
        ({"numbers": {"curve": (1.0, 2.0)}}, r"numbers\.curve: JSON cannot hold"),
        ({"numbers": {3: 1.0}}, "numbers: expected names that are strings, got 3"),
        ({"settings": {"path": Path("x")}}, r"settings\.path: JSON cannot hold"),
        ({"wall_seconds": math.nan}, "wall_seconds: expected a finite number"),
        ({"started": "now"}, "started: expected an ISO 8601 time in UTC"),
    ],
)
def test_wrong_findings_are_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path, _ = document(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ResultError, match=f"^cannot write these findings: {message}"):
        write_findings(some_findings(**changes), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = document(tmp_path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_findings(some_findings(title="new"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_system_refuses_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_findings(tmp_path / "missing.json")
    with pytest.raises(FileNotFoundError):
        write_findings(some_findings(), tmp_path / "missing" / "findings.json")
