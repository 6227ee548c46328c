"""``synaptic reproduce``: every experiment in its quick form, end to end, then the page."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import Outcome
from made_up import RESULT

from synaptic_intelligence.cli.reproducing import default_names
from synaptic_intelligence.data import load_cifar10
from synaptic_intelligence.experiments import EXPERIMENTS, STUDIES, split_cifar, split_cifar10, split_cifar10_halves
from synaptic_intelligence.paper.sections import SECTIONS
from synaptic_intelligence.result import read_result, write_result
from synaptic_intelligence.tasks import Task


def _noise(name: str, classes: int) -> Task:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (260 * classes, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(260 * classes) % classes
    return Task(name, pixels, labels, pixels[:500], labels[:500], tuple(range(classes)))


@pytest.fixture(scope="module")
def cifar() -> Iterator[None]:
    """The real CIFAR where SYNAPTIC_TEST_DATA_DIR has it, else noise in its shape: what is tested is that all works."""
    patch = pytest.MonkeyPatch()
    real = os.environ.get("SYNAPTIC_TEST_DATA_DIR")
    if real and (Path(real) / "cifar10").is_dir():
        patch.setenv("SYNAPTIC_DATA_DIR", real)
    else:
        for module in (split_cifar, split_cifar10, split_cifar10_halves):
            patch.setattr(module, "load_cifar10", lambda folder: _noise("CIFAR-10", 10))
        patch.setattr(split_cifar, "load_cifar100", lambda folder: _noise("CIFAR-100", 50))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def out(cifar: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce") / "all"
    outcome = Outcome("reproduce", "--quick", "--workers", "1", "--out", folder)
    assert (outcome.code, outcome.error) == (0, "")
    (folder / "printed.txt").write_text(outcome.out, "utf-8")
    return folder


def test_every_experiment_leaves_its_outcome(out: Path) -> None:
    """All but the correlations between tasks, whose runs are those of permuted MNIST."""
    made = {path.parent.name for path in (*out.glob("*/result.json"), *out.glob("*/findings.json"))}
    assert made == {*EXPERIMENTS, *STUDIES} - {"task-correlations"}
    assert len(default_names()) == len(made)


def test_each_says_on_every_output_that_it_is_not_the_protocol(out: Path) -> None:
    printed = (out / "printed.txt").read_text("utf-8")
    for name in default_names():
        file = next(file for file in (out / name / "result.json", out / name / "findings.json") if file.exists())
        assert json.loads(file.read_text("utf-8"))["deviations"], name
        part = printed.partition(f"] {name}\n")[2].partition("\n[")[0]
        assert re.search(r"^Not the (paper's protocol|study as it is meant): ", part, re.MULTILINE), name
        words = "not the study as it is meant" if name in STUDIES else "not the paper's protocol"
        assert words in _drawn(out / name / "figure.svg"), name
        assert words in _drawn(out / "figures" / f"{name}.svg"), name
        if name in EXPERIMENTS:
            shown = out / name / "report.html"
            assert words in _written(shown), name
            assert words in _drawn(shown), name
    page = (out / "paper.md").read_text("utf-8")
    assert "are not the paper's protocol" in page
    assert "the protocol's settings" not in page
    assert "the study as it is meant |" not in page.replace("not the study as it is meant |", "")


def _drawn(path: Path) -> str:
    """The words in the figures of a file: they are drawn as outlines, with a comment that has the text."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text("utf-8")))


def _written(path: Path) -> str:
    """The words of an HTML page, without those in its figures."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", path.read_text("utf-8"))).split())


def test_the_page_shows_all_of_them(out: Path) -> None:
    page = (out / "paper.md").read_text("utf-8")
    assert "ot run yet" not in page
    for figure in re.findall(r"\]\((figures/[\w-]+\.svg)\)", page):
        assert (out / figure).exists()
    for file in re.findall(r"\]\(([\w-]+/(?:result|findings)\.json)\)", page):
        assert (out / file).exists()
    assert len(set(re.findall(r"\]\((figures/[\w-]+\.svg)\)", page))) == len(SECTIONS)


def test_what_is_done_is_not_done_again(out: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (*out.glob("*/result.json"), *out.glob("*/findings.json"))}
    page = (out / "paper.md").read_text("utf-8")
    outcome = Outcome("reproduce", "--quick", "--workers", "1", "--out", out)
    assert (outcome.code, outcome.error) == (0, "")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert (out / "paper.md").read_text("utf-8") == page


def test_correlations_can_be_run_alone(tmp_path: Path) -> None:
    outcome = Outcome("run", "task-correlations", "--quick", "--workers", "1", "--out", tmp_path / "run")
    assert outcome.code == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    assert [len(run["path_correlation"]) for run in result["runs"]] == [3, 3]
    # What it is about is told on the terminal and drawn, beside the accuracies; and of EWC it says nothing.
    assert outcome.out.startswith("Path integrals on permuted MNIST (figure 5 of the paper): ")
    assert "Path integrals on permuted MNIST: accuracy after the last task" in outcome.out
    rows = SECTIONS["task-correlations"].rows(read_result(tmp_path / "run" / "result.json"))
    assert len(rows) >= 6
    for row in rows:
        assert row.what in outcome.out
    assert outcome.out.count("This is not the paper's protocol") == 1
    assert "Fisher" not in outcome.out
    drawn = _drawn(tmp_path / "run" / "figure.svg")
    assert drawn.count("correlations between tasks") == 1
    assert "second layer" in drawn


def test_data_that_is_missing_stops_one_experiment_and_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reader itself, also where the other tests do without it.
    monkeypatch.setattr(split_cifar10, "load_cifar10", load_cifar10)
    outcome = Outcome(
        *("reproduce", "--quick", "--data-dir", tmp_path, "--out", tmp_path / "all"),
        *("--only", "split-cifar10", "--only", "toy"),
    )
    assert outcome.code == 1
    assert "CIFAR-10 cannot be loaded: there is no " in outcome.error
    assert outcome.error.endswith("not all of it could be run: split-cifar10; why is said above\n")
    assert (tmp_path / "all" / "toy" / "findings.json").exists()
    assert "split-cifar10: not run yet" in (tmp_path / "all" / "paper.md").read_text("utf-8")


def test_a_damaged_file_costs_its_own_place_on_the_page_alone(tmp_path: Path) -> None:
    """Whether its experiment is asked for or not; the advice is one that can be followed here."""
    for name, text in (("split-mnist", "{"), ("split-cifar10", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text, "utf-8")
    asked = ("reproduce", "--quick", "--out", tmp_path, "--only", "split-mnist", "--only", "toy")
    outcome = Outcome(*asked)
    assert outcome.code == 1
    for name in ("split-mnist", "split-cifar10"):
        (told,) = (line for line in outcome.error.splitlines() if f"{tmp_path}/{name}/result.json: " in line)
        assert told.endswith(
            f". To start it anew, remove or rename {tmp_path}/{name}; or reproduce elsewhere with --out"
        )
    assert "--overwrite" not in outcome.error
    assert outcome.error.endswith("not all of it could be run: split-mnist, split-cifar10; why is said above\n")
    page = (tmp_path / "paper.md").read_text("utf-8")
    assert "split-mnist: not run yet" in page
    assert "(figures/toy.svg)" in page

    # Findings that an older version has made, for instance.
    found = json.loads((tmp_path / "toy" / "findings.json").read_text("utf-8"))
    (tmp_path / "toy" / "findings.json").write_text(json.dumps({**found, "numbers": {}}), "utf-8")
    outcome = Outcome(*asked)
    assert outcome.code == 1
    assert f"{tmp_path}/toy/findings.json: its numbers are not those of toy " in outcome.error
    assert "toy: not run yet" in (tmp_path / "paper.md").read_text("utf-8")

    # An outcome of something else.
    shutil.copytree(tmp_path / "toy", tmp_path / "quadratic")
    outcome = Outcome(*asked[:4], "--only", "quadratic")
    assert "quadratic/findings.json: of 'toy', where that of 'quadratic' belongs. To start it anew" in outcome.error


def test_checkpoints_without_their_result_have_a_way_out_here_too(tmp_path: Path) -> None:
    (tmp_path / "split-mnist" / "checkpoints").mkdir(parents=True)
    (tmp_path / "split-mnist" / "checkpoints" / "seed-0-first-task.pt").touch()
    outcome = Outcome("reproduce", "--quick", "--out", tmp_path, "--only", "split-mnist")
    assert outcome.code == 1
    assert f"To start it anew, remove or rename {tmp_path}/split-mnist; or " in outcome.error
    assert "--overwrite" not in outcome.error
    assert "--resume" not in outcome.error


def test_a_result_without_a_complete_run_is_not_run_yet(tmp_path: Path) -> None:
    (tmp_path / "split-mnist").mkdir()
    write_result(RESULT, tmp_path / "split-mnist" / "result.json")
    outcome = Outcome("reproduce", "--quick", "--out", tmp_path, "--only", "toy")
    assert (outcome.code, outcome.error) == (0, "")
    assert "split-mnist: not run yet" in (tmp_path / "paper.md").read_text("utf-8")


def test_seeds_are_not_asked_of_a_study_that_has_none(tmp_path: Path) -> None:
    assert Outcome("reproduce", "--quick", "--seeds", "2", "--out", tmp_path, "--only", "toy").code == 0


def test_other_settings_than_those_that_are_there_are_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "split-mnist").mkdir()
    result = read_result(out / "split-mnist" / "result.json")
    shorter = {**result.settings, "tasks": 4}
    write_result(replace(result, settings=shorter), tmp_path / "split-mnist" / "result.json")
    shutil.copytree(out / "importance-measures", tmp_path / "importance-measures")
    out = tmp_path
    outcome = Outcome("reproduce", "--quick", "--seeds", "2", "--out", out, "--only", "split-mnist")
    assert outcome.code == 1
    assert "tasks was 4 and is 5" in outcome.error
    of_a_study = Outcome("reproduce", "--quick", "--seeds", "2", "--out", out, "--only", "importance-measures")
    assert of_a_study.code == 1
    assert "importance-measures/findings.json was made with other settings" in of_a_study.error
    for told, name in ((outcome, "split-mnist"), (of_a_study, "importance-measures")):
        assert f"To start it anew, remove or rename {out}/{name}; or reproduce elsewhere with --out\n" in told.error
        assert "--overwrite" not in told.error


def test_more_seeds_are_added_to_those_that_are_there(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "split-mnist", tmp_path / "split-mnist")
    before = read_result(tmp_path / "split-mnist" / "result.json")
    asked = ["reproduce", "--quick", "--out", str(tmp_path), "--only", "split-mnist", "--workers", "1"]
    assert Outcome(*asked, "--seeds", "2").code == 0
    after = read_result(tmp_path / "split-mnist" / "result.json")
    assert after.complete
    assert [run for run in after.runs if run.seed == 0] == before.runs
    assert {run.seed for run in after.runs} == {0, 1}
    fewer = Outcome(*asked, "--seeds", "1")
    assert fewer.code == 1
    assert "seeds was 2 and is 1" in fewer.error


def test_an_experiment_that_is_named_twice_runs_once(tmp_path: Path) -> None:
    outcome = Outcome("reproduce", "--quick", "--out", tmp_path, "--only", "toy", "--only", "toy")
    assert outcome.code == 0
    assert "[1 of 1] toy" in outcome.out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--device", "xx"], "--device xx: not available here; there are: cpu"),
        (["--workers", "-1"], "--workers must be 0 or more, not -1"),
        (["--threads", "0"], "--threads must be 1 or more, not 0"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere (or SYNAPTIC_DATA_DIR): there is no such folder"),
    ],
)
def test_what_the_machine_lacks_is_refused_before_anything_runs(options: list[str], error: str, tmp_path: Path) -> None:
    outcome = Outcome("reproduce", "--quick", "--out", tmp_path / "all", *options)
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: {error}")
    assert not (tmp_path / "all").exists()


def test_no_seeds_are_refused_where_nothing_is_random_too(tmp_path: Path) -> None:
    outcome = Outcome("reproduce", "--only", "toy", "--seeds", "0", "--out", tmp_path / "out")
    assert (outcome.code, outcome.error) == (2, "synaptic: --seeds must be 1 or more, not 0\n")
    assert not (tmp_path / "out").exists()


def test_an_unknown_experiment_is_refused() -> None:
    outcome = Outcome("reproduce", "--only", "split-mnst")
    assert (outcome.code, outcome.error) == (
        2,
        "synaptic: there is no experiment 'split-mnst'; did you mean split-mnist?\n",
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--xi", "1"], "importance-measures has no --xi: it takes --seeds, --quick, --threads and the folders alone"),
        (["--rival", "none"], "importance-measures has no --rival: it takes"),
        (["--resume"], "importance-measures has no --resume: it takes"),
        (["--device", "cuda"], "importance-measures has no --device: it takes"),
        (["--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["--threads", "0"], "--threads must be 1 or more, not 0"),
        (["--data-dir", "nowhere"], "--data-dir nowhere (or SYNAPTIC_DATA_DIR): there is no such folder"),
    ],
)
def test_a_study_refuses_what_it_does_not_have(words: list[str], reason: str) -> None:
    outcome = Outcome("run", "importance-measures", *words)
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: {reason}")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["split-cifar", "--tasks", "7"], "--tasks must be at most 6 in split-cifar, not 7"),
        (["split-cifar", "--rival", "joint"], "--rival joint makes no sense in split-cifar; there are: scratch"),
        (["split-mnist", "--rival", "scratch"], "--rival scratch makes no sense in split-mnist; it has none"),
        (
            ["permuted-mnist", "--rival", "ewc"],
            "--rival: ewc needs a positive finite strength, as in 'ewc:100', not 'ewc'",
        ),
        (["permuted-mnist", "--rival", "ewc:1", "--fisher-images", "0"], "--fisher-images must be 1 or more, not 0"),
        (["permuted-mnist", "--rival", "joint", "--rival", "joint"], "--rival has joint more than once"),
        (["permuted-mnist", "--rival", "magic"], "--rival magic makes no sense in permuted-mnist; there are: ewc, "),
        (["permuted-mnist", "--rival", "none", "--rival", "joint"], "--rival none stands alone"),
        (["permuted-mnist", "--keep-step-count"], "--keep-step-count makes no sense in permuted-mnist: one optimizer"),
    ],
)
def test_rivals_and_tasks_that_make_no_sense_are_refused(words: list[str], reason: str) -> None:
    outcome = Outcome("run", *words)
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: {reason}")


def test_findings_are_not_overwritten_by_mistake_and_can_be_reported_again(out: Path, tmp_path: Path) -> None:
    folder = out / "importance-measures"
    refused = Outcome("run", "importance-measures", "--quick", "--out", folder)
    assert refused.code == 2
    assert "holds findings already. Replace them with --overwrite" in refused.error
    shown = Outcome("report", folder, "--out", tmp_path)
    assert shown.code == 0
    assert "rank correlation of omega and MAS" in shown.out
    assert (tmp_path / "figure.svg").read_text("utf-8") == (folder / "figure.svg").read_text("utf-8")


def test_findings_of_a_study_that_is_not_known_are_refused(out: Path, tmp_path: Path) -> None:
    document = json.loads((out / "importance-measures" / "findings.json").read_text("utf-8"))
    (tmp_path / "findings.json").write_text(json.dumps({**document, "experiment": "other"}), "utf-8")
    outcome = Outcome("report", tmp_path)
    assert outcome.code == 2
    assert "has no study 'other'" in outcome.error


def test_the_quick_forms_differ_from_the_paper_in_size_alone() -> None:
    for experiment in EXPERIMENTS.values():
        quick = experiment.quick
        same = replace(
            quick, seeds=5, c=(0.0,), epochs=1, batch_size=1, tasks=1, limit=None, rivals=(), fisher_images=1
        )
        paper = replace(
            experiment.paper, seeds=5, c=(0.0,), epochs=1, batch_size=1, tasks=1, limit=None, rivals=(), fisher_images=1
        )
        assert same == paper
