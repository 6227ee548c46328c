"""What the docs say of training stacks is what the tests there are show: none is missing, none is made up."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from stacks_table import STACKS, stacks_table, works_with

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "stacks.json"


def written() -> set[tuple[str, str, str]]:
    """File, name and first line of the docstring of every test of a stack, from the source."""
    found = set()
    for file in sorted((ROOT / "tests" / "stacks").glob("test_*.py")):
        source = file.read_text("utf-8")
        if "pytest.mark.stack(" not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                shows = (ast.get_docstring(node) or "").partition("\n")[0]
                found.add((str(file.relative_to(ROOT)), node.name, shows))
    return found


def test_the_record_is_of_the_tests_there_are() -> None:
    """If it fails: `make stacks` runs them and writes the record again."""
    recorded = {(row["file"], row["test"], row["shows"]) for row in json.loads(RECORD.read_text("utf-8"))["tests"]}
    assert recorded == written()


def test_every_test_of_a_stack_says_what_it_shows_in_a_sentence() -> None:
    assert [name for _, name, shows in written() if not shows.endswith(".")] == []


def test_every_test_in_the_record_has_passed() -> None:
    assert {row["outcome"] for row in json.loads(RECORD.read_text("utf-8"))["tests"]} == {"passed"}


def test_what_has_failed_is_not_claimed(tmp_path: Path) -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    failed = next(row for row in record["tests"] if row["stack"] == "DDP")
    failed["outcome"] = "failed"
    file = tmp_path / "stacks.json"
    file.write_text(json.dumps(record), "utf-8")
    assert "DDP" in works_with(RECORD)
    assert "DDP" not in works_with(file)
    assert "| failed" in stacks_table(file)


def test_a_stack_that_the_page_does_not_know_is_an_error(tmp_path: Path) -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    record["tests"][0]["stack"] = "another"
    file = tmp_path / "stacks.json"
    file.write_text(json.dumps(record), "utf-8")
    assert "another" not in STACKS
    with pytest.raises(ValueError, match="another"):
        stacks_table(file)
