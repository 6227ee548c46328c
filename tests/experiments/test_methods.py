"""What a run is compared with: rivals by name, on the command line, in settings and in the names of files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tiny import SETTINGS, TINY
from typer.testing import CliRunner

from synaptic_intelligence.cli.app import app
from synaptic_intelligence.cli.training import Request
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.checkpoint import checkpoint_path
from synaptic_intelligence.experiments.method import RIVALS, Method
from synaptic_intelligence.experiments.plan import Job, Plan
from synaptic_intelligence.experiments.settings import Settings, deviations, flags

PERMUTED_MNIST = EXPERIMENTS["permuted-mnist"]


@pytest.mark.parametrize(
    ("text", "name", "c", "shown"),
    [
        ("ewc:100", "ewc", 100.0, "ewc, c = 100"),
        ("ewc:1e-3", "ewc", 0.001, "ewc, c = 0.001"),
        ("ewc:0.12345678", "ewc", 0.12345678, "ewc, c = 0.12345678"),
        ("sgd-dropout", "sgd-dropout", None, "sgd-dropout"),
        ("scratch", "scratch", None, "scratch"),
        ("joint", "joint", None, "joint"),
    ],
)
def test_a_rival_is_read_from_its_name_and_strength(text: str, name: str, c: float | None, shown: str) -> None:
    assert Method.parse(text) == Method(name, c)
    assert str(Method.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "si", "si:1", "EWC:100", "none", "sgd", "ewc100", ":100", " joint", "joint "])
def test_no_such_rival_is_said_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"^rivals must be some of ewc, sgd-dropout, scratch, joint, not '") as caught:
        Method.parse(text)
    assert str(caught.value).endswith(repr(text))


@pytest.mark.parametrize(
    "text", ["ewc", "ewc:", "ewc:0", "ewc:-1", "ewc:nan", "ewc:inf", "ewc:much", "ewc:1:2", "ewc:1,2", "ewc:0x10"]
)
def test_ewc_without_a_positive_strength_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^rivals: ewc needs a positive finite strength, as in 'ewc:100', not '"
    ) as caught:
        Method.parse(text)
    assert str(caught.value).endswith(repr(text))


@pytest.mark.parametrize("name", ["sgd-dropout", "scratch", "joint"])
@pytest.mark.parametrize("strength", ["", "1", "0"])
def test_a_strength_where_there_is_none_is_refused(name: str, strength: str) -> None:
    with pytest.raises(ValueError, match=f"^rivals: {name} has no strength: write '{name}', not '{name}:{strength}'$"):
        Method.parse(f"{name}:{strength}")


def test_every_rival_can_be_read() -> None:
    assert {Method.parse("ewc:1" if name == "ewc" else name).name for name in RIVALS} == set(RIVALS)


def test_every_job_has_a_file_of_its_own(tmp_path: Path) -> None:
    strengths = (0.0, 1.0, 10.0, 100.0, 0.1, 1e-5, 1.00000001, 1e22)
    methods = [Method("si", c) for c in strengths] + [Method("ewc", c) for c in strengths if c]
    methods += [Method("sgd-dropout"), Method("scratch"), Method("joint")]
    jobs = [Job(seed, method) for seed in (0, 1, 10, 11) for method in (None, *methods)]
    names = [checkpoint_path(tmp_path, job).name for job in jobs]
    assert len(set(names)) == len(names) == 4 * 19
    # Also where case does not count, and beside the files of path integrals.
    assert not any(a.lower() == b.lower() or "/" in a or ":" in a for a, b in combinations(names, 2))
    stems = [name.removesuffix(".pt") for name in names]
    assert not any(f"{a}.path-0" == b or f"{b}.path-0" == a for a, b in combinations(stems, 2))


def test_settings_with_rivals_learn_by_synapses_first_and_then_by_each_rival() -> None:
    settings = replace(SETTINGS, c=(0.5, 0.0), rivals=("joint", "ewc:30", "ewc:3"))
    assert settings.methods == [
        Method("si", 0.5),
        Method("si", 0.0),
        Method("joint"),
        Method("ewc", 30.0),
        Method("ewc", 3.0),
    ]
    assert settings.as_json()["rivals"] == ["joint", "ewc:30", "ewc:3"]


@pytest.mark.parametrize(
    ("rivals", "repeated"),
    [
        (("joint", "joint"), "joint"),
        (("ewc:100", "scratch", "ewc:100"), "ewc:100"),
        (("ewc:100", "ewc:1e2"), "ewc:100"),
    ],
)
def test_a_rival_that_comes_twice_is_refused_however_it_is_written(rivals: tuple[str, ...], repeated: str) -> None:
    with pytest.raises(ValueError, match=f"^rivals has {repeated} more than once$"):
        replace(SETTINGS, rivals=rivals)


@pytest.mark.parametrize("rival", ["ewc", "magic", "joint:1"])
def test_settings_refuse_what_is_no_rival_by_the_parameters_name(rival: str) -> None:
    with pytest.raises(ValueError, match=r"^rivals\b"):
        replace(SETTINGS, rivals=("scratch", rival))


def test_jobs_are_the_shared_first_tasks_and_then_every_method_of_every_seed(tmp_path: Path) -> None:
    settings = replace(SETTINGS, c=(50.0,), rivals=("ewc:3", "sgd-dropout", "scratch", "joint"))
    plan = Plan(TINY, settings, "cpu", 1, None, tmp_path)
    first, of_seed = plan.jobs[:2], plan.jobs[2:7]
    assert [str(job) for job in first] == ["seed 3, first task", "seed 4, first task"]
    assert [str(job) for job in of_seed] == [
        "seed 3, c = 50",
        "seed 3, ewc, c = 3",
        "seed 3, sgd-dropout",
        "seed 3, scratch",
        "seed 3, joint",
    ]
    assert len(plan.jobs) == 2 + 2 * 5
    assert [job.needs for job in of_seed] == [first[0], first[0], None, first[0], None]
    assert [list(plan.stages(job)) for job in of_seed] == [[1, 2], [1, 2], [0, 1, 2], [1, 2], [0]]
    assert list(plan.stages(first[0])) == [0]


def _read(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that the command line reads from flags."""
    asked: list[Request] = []
    monkeypatch.setattr("synaptic_intelligence.cli.app.train", asked.append)
    done = CliRunner().invoke(app, ["run", "permuted-mnist", *words])
    assert (done.exit_code, done.output) == (0, "")
    return asked[0].settings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rivals": ()},
        {"rivals": ("joint",)},
        {"rivals": ("ewc:0.5", "ewc:1e-3", "sgd-dropout")},
        {"c": (0.12345678, 1e-5), "tasks": 40, "limit": 7, "fisher_images": 3},
        {
            "seeds": 1,
            "first_seed": 9,
            "xi": 1e-5,
            "epochs": 3,
            "batch_size": 7,
            "lr": 0.5,
            "rivals": ("joint", "ewc:2"),
        },
    ],
)
def test_the_command_line_reads_its_own_flags(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = replace(PERMUTED_MNIST.paper, **changes)
    assert _read(flags(ours, PERMUTED_MNIST.paper), monkeypatch) == ours


def test_no_rivals_where_the_paper_has_some_is_a_flag_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PERMUTED_MNIST.paper.rivals != ()
    ours = replace(PERMUTED_MNIST.paper, rivals=())
    assert flags(ours, PERMUTED_MNIST.paper) == ["--rival", "none"]
    assert deviations(ours, PERMUTED_MNIST.paper) == []
    assert _read(["--rival", "none"], monkeypatch).rivals == ()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["split-mnist", "--rival", "joint"], "--rival joint makes no sense in split-mnist; it has none"),
        (
            ["permuted-mnist", "--rival", "scratch"],
            "--rival scratch makes no sense in permuted-mnist; there are: ewc",
        ),
        (["permuted-mnist", "--rival", "ewc"], "--rival: ewc needs a positive finite strength"),
        (["permuted-mnist", "--rival", "none", "--rival", "joint"], "--rival none stands alone"),
        (["permuted-mnist", "--rival", "joint", "--rival", "joint"], "--rival has joint more than once"),
        (["split-mnist", "--tasks", "6"], "--tasks must be at most 5 in split-mnist, not 6"),
        (["split-cifar", "--tasks", "7"], "--tasks must be at most 6 in split-cifar, not 7"),
        (
            ["permuted-mnist", "--rival", "EWC:10"],
            "--rival EWC:10 makes no sense in permuted-mnist; did you mean ewc:10?",
        ),
        (["permuted-mnist", "--rival", "ewc:1e400"], "--rival: ewc needs a positive finite strength"),
        (
            ["permuted-mnist", "--tasks", "1", "--limit", "9", "--rival", "ewc:1", "--fisher-images", "10"],
            "--fisher-images must be at most 9, as a task has no more images, not 10",
        ),
        (["split-mnist", "--limit", "60001"], "--limit must be at most "),
    ],
)
def test_rivals_and_tasks_that_an_experiment_lacks_are_refused_in_one_line(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"synaptic: {reason}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
