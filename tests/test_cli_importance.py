"""``synaptic inspect`` and ``synaptic merge``: what they print, and that what is wrong takes one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Outcome
from rich.console import Console

import synaptic_intelligence as si
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.cli import importance_files
from synaptic_intelligence.importance_file import ImportanceFile


def write(to: Path, omega: list[float] | None = None, anchor: float = 0.0, name: str = "w", **fields: Any) -> Path:
    numbers = torch.tensor([0.0, 0.25, 1.5] if omega is None else omega)
    header = {"estimator": "path_integral", "settings": {"xi": 0.1}, "c": 0.5, "tasks": 1, "steps": 0, "path": {}}
    tensors = {"omega": {name: numbers}, "anchor": {name: torch.full_like(numbers, anchor)}}
    write_importance(ImportanceFile(**{**header, **tensors, **fields}), to)
    return to


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write(tmp_path / "one.safetensors")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write(tmp_path / "two.safetensors", anchor=4.0, c=1.5)


# Inspect.


def test_inspect_shows_the_file(one: Path) -> None:
    outcome = Outcome("inspect", one)
    assert (outcome.code, outcome.error) == (0, "")
    lines = [line.rstrip() for line in outcome.out.splitlines()]
    assert lines[:4] == [
        "path_integral, xi = 0.1; c = 0.5",
        f"1 task consolidated; written by synaptic-intelligence {si.__version__}, torch {torch.__version__}",
        "3 numbers in 1 parameter, 66.7% of them with omega > 0; sum of omega 1.75",
        "as concentrated as 1 equal number; the largest tenth holds 85.7% of the sum",
    ]
    rows = [line.split() for line in lines[5:]]
    assert rows[0] == ["parameter", "shape", "omega", ">", "0", "mean", "median", "largest", "share"]
    assert rows[2] == ["w", "3", "66.7%", "0.583", "0.25", "1.5", "100.0%"]
    assert ["omega", "=", "0", "1"] in rows
    assert ["-1", "to", "0", "1", 40 * "█"] in rows
    assert rows[-2:] == [["w", "[2]", "1.5"], ["w", "[1]", "0.25"]]


def test_inspect_names_as_many_as_are_asked_for(one: Path) -> None:
    assert "[1]" not in Outcome("inspect", one, "--top", "1").out
    assert "most important" not in Outcome("inspect", one, "--top", "0").out


def test_inspect_as_json_is_the_inspection(one: Path) -> None:
    found, expected = json.loads(Outcome("inspect", one, "--json").out), si.inspect_importance(one)
    assert found["decades"] == {"-1": 1, "0": 1}
    assert found["top"][0] == {"name": "w", "index": [2], "omega": 1.5}
    assert found["layers"][0]["mean"] == expected.layers[0].mean
    assert (found["effective"], found["tenth"]) == (expected.effective, expected.tenth)


def test_json_has_no_number_that_json_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", settings={"xi": float("inf"), "nan": float("nan")}, c=(0.0, 1.0))
    found = json.loads(Outcome("inspect", path, "--json").out, parse_constant=lambda text: pytest.fail(text))
    assert found["settings"] == {"xi": "inf", "nan": "nan"}
    assert found["c"] == [0.0, 1.0]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_figures_are_whole_on_a_terminal_of_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "base_model.model.model.layers.31.self_attn.q_proj.lora_A.default.weight"
    path = write(tmp_path / "a.safetensors", omega=[1e-30, 1.23e-4], name=name)
    screen = Console(width=width, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(importance_files, "Console", lambda **_: screen)
    with screen.capture() as capture:
        assert Outcome("inspect", path).code == 0
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert all(any(figure in line.split() for line in lines) for figure in ("6.15e-05", "1e-30", "0.000123"))
        assert "".join(line.split()[0] for line in lines if line[:4] in ("base", "s.31", "n.q_")).startswith(
            "base_model"
        )


def test_signs_that_the_terminal_lacks_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors", name="ω[bold]")
    assert "ω[bold]" in Outcome("inspect", path).out
    monkeypatch.setattr(Console, "encoding", "ascii")
    out = Outcome("inspect", path).out
    assert "\\u03c9[bold]" in out
    assert out.isascii()
    assert 40 * "#" in out


def test_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\n\u202e\x9b"
    path = write(tmp_path / "a.safetensors", name=evil, estimator=evil, settings={evil: evil})
    outcome = Outcome("inspect", path)
    assert outcome.code == 0
    assert all(line.isprintable() for line in outcome.out.split("\n"))
    assert Outcome("inspect", path, "--json").out.replace("\n", "").isprintable()
    outcome = Outcome("merge", path, write(tmp_path / "b.safetensors", name=evil), "--out", tmp_path / "c")
    assert outcome.code == 2
    assert outcome.error.removesuffix("\n").isprintable()


# Merge.


def test_merge_writes_the_sum_and_says_what_is_in_it(one: Path, two: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    outcome = Outcome("merge", one, two, "--out", out)
    assert (outcome.code, outcome.error) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "path_integral, xi = 0.1; c = 1"
    assert lines[1].startswith("2 tasks consolidated; ")
    assert lines[-1] == f"merged  {out}"
    found = read_importance(out)
    assert found.omega["w"].tolist() == [0.0, 0.5, 3.0]
    assert found.anchor["w"].tolist() == [2.0, 3.0, 3.0]


def test_merge_takes_strengths(one: Path, two: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    assert Outcome("merge", one, two, "--c", "3", "--c", "1", "--merged-c", "0.5", "--out", out).code == 0
    found = read_importance(out)
    assert (found.c, found.omega["w"].tolist(), found.anchor["w"].tolist()) == (0.5, [0.0, 2.0, 12.0], [2.0, 1.0, 1.0])


def test_merge_lets_parameters_be_missing(one: Path, tmp_path: Path) -> None:
    other, out = write(tmp_path / "other.safetensors", name="head"), tmp_path / "both.safetensors"
    outcome = Outcome("merge", one, other, "--out", out)
    assert outcome.code == 2
    assert outcome.error.endswith(
        "has no importance of ['head'], which others have: --missing free lets it have none there\n"
    )
    assert Outcome("merge", one, other, "--out", out, "--missing", "free").code == 0
    assert list(read_importance(out).omega) == ["w", "head"]


def test_merge_replaces_a_file_only_when_told(one: Path, two: Path) -> None:
    before = two.read_bytes()
    outcome = Outcome("merge", one, two, "--out", two)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error == (
        f"synaptic: {two} is there already. Replace it with --overwrite, or write elsewhere with --out\n"
    )
    assert two.read_bytes() == before
    assert Outcome("merge", one, two, "--out", two, "--overwrite").code == 0
    assert read_importance(two).tasks == 2


def test_merge_passes_warnings_on(one: Path, tmp_path: Path) -> None:
    idle = write(tmp_path / "idle.safetensors", c=0.0)
    outcome = Outcome("merge", one, idle, "--out", tmp_path / "both.safetensors")
    assert outcome.code == 0
    assert outcome.error == f"synaptic: {idle} adds nothing to the pull: its c is zero\n"


# What is wrong takes one line.


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["inspect", "nowhere"], "no importance file at nowhere"),
        (["inspect", "."], "no importance file at ."),
        (["inspect", "cut"], "cut is damaged or no safetensors file: "),
        (["inspect", "text"], "text is damaged or no safetensors file: "),
        (["inspect", "one.safetensors", "--top", "-1"], "--top must be a whole number from 0 up, not -1"),
        (["merge", "one.safetensors", "--out", "out"], "files must be two or more to be merged, not 1"),
        (["merge", "one.safetensors", "one.safetensors", "--out", "out"], "one.safetensors is given twice"),
        (["merge", "one.safetensors", "nowhere", "--out", "out"], "no importance file at nowhere"),
        (["merge", "one.safetensors", "cut", "--out", "out"], "cut is damaged"),
        (["merge", "one.safetensors", "two.safetensors", "--out", "no/out"], "no: there is no such folder"),
        (["merge", "one.safetensors", "two.safetensors", "--out", "text/out"], "text: there is no such folder"),
        (["merge", "one.safetensors", "two.safetensors", "--out", "."], ". is a folder: name a file in it"),
        (
            ["merge", "one.safetensors", "two.safetensors", "--out", "out", "--c", "1"],
            "--c must be one strength for each of the 2 files, not 1",
        ),
        (
            ["merge", "one.safetensors", "two.safetensors", "--out", "out", "--c", "1", "--c", "nan"],
            "--c of two.safetensors must be ",
        ),
        (
            ["merge", "one.safetensors", "two.safetensors", "--out", "out", "--merged-c", "-1"],
            "--merged-c must be positive and finite, not -1.0",
        ),
        (
            ["merge", "one.safetensors", "two.safetensors", "--out", "out", "--merged-c", "1e300"],
            "the merged omega rounds to zero everywhere: choose a smaller --merged-c, or larger c",
        ),
        (
            ["merge", "one.safetensors", "begun", "--out", "out"],
            "begun was saved in the middle of a task, after 3 steps",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_takes_one_line(
    words: list[str], reason: str, one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut").write_bytes(one.read_bytes()[:-5])
    (tmp_path / "text").write_text("omega")
    write(tmp_path / "begun", steps=3, path={"w": torch.ones(3)})
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    outcome = Outcome(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith(f"synaptic: {reason}")
    assert outcome.error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["inspect", "merge"])
def test_help_shows_examples(command: str) -> None:
    outcome = Outcome(command, "--help")
    assert outcome.code == 0
    assert f"synaptic {command} one.safetensors" in outcome.out


def test_the_page_on_importance_files_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "portable.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]:  # what saves the files
        exec(block, names)
    [(command, shown)] = re.findall(
        r"^```console\n\$ synaptic (inspect .*?)\n(.+?)\n```$", page, re.MULTILINE | re.DOTALL
    )
    versions = f"synaptic-intelligence {si.__version__}, torch {torch.__version__}"
    printed = Outcome(*command.split()).out.replace(versions, "synaptic-intelligence ..., torch ...")
    assert [line.rstrip() for line in printed.splitlines()] == shown.split("\n")
