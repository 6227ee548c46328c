"""The page shows every experiment, says how each result was made, and what it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import RESULT, run

from synaptic_intelligence.document import JSON, ResultError
from synaptic_intelligence.experiments import EXPERIMENTS, STUDIES
from synaptic_intelligence.findings import Findings, read_findings, write_findings
from synaptic_intelligence.paper.outcome import made, read_outcome
from synaptic_intelligence.paper.page import write_paper
from synaptic_intelligence.paper.sections import SECTIONS
from synaptic_intelligence.result import Run, write_result

PATHS = {name: [[1.0], [0.25, 1.0]] for name in ("0.weight", "2.weight", "4.weight")}


@pytest.fixture
def results(tmp_path: Path, made_up_measures: Callable[..., Findings]) -> dict[str, list[Path]]:
    folder = tmp_path / "results"
    folder.mkdir()
    runs = [run(0, "si", 1.0, last=[0.98, 0.99])]
    permuted = [run(0, "si", 0.1, last=[0.97, 0.96], correlation=PATHS)]
    write_result(replace(RESULT, runs=runs), folder / "split-mnist.json")
    short = replace(RESULT, experiment="permuted-mnist", title="Permuted MNIST", runs=permuted)
    write_result(short, folder / "permuted-mnist.json")
    write_result(replace(short, deviations=["2 epochs instead of 20"]), folder / "permuted-mnist-short.json")
    write_findings(made_up_measures(2), folder / "importance-measures.json")
    return {
        "split-mnist": [folder / "split-mnist.json"],
        "permuted-mnist": [folder / "permuted-mnist.json", folder / "permuted-mnist-short.json"],
        "importance-measures": [folder / "importance-measures.json"],
    }


def test_every_experiment_has_its_section() -> None:
    assert set(SECTIONS) == {*EXPERIMENTS, *STUDIES}


def test_each_outcome_has_its_figure_its_numbers_and_its_origin(tmp_path: Path, results: dict[str, list[Path]]) -> None:
    page, *figures = write_paper(SECTIONS, results, tmp_path / "docs", results="../results/")
    text = page.read_text("utf-8")
    assert sorted(path.name for path in figures) == [
        "importance-measures.svg",
        "permuted-mnist-short.svg",
        "permuted-mnist.svg",
        "split-mnist.svg",
        "task-correlations.svg",
    ]
    for path in figures:
        assert f"(figures/{path.name})" in text
        assert path.read_text("utf-8").startswith("<?xml")
    for name in ("split-mnist", "permuted-mnist", "permuted-mnist-short", "importance-measures"):
        assert f"(../results/{name}.json)" in text
        assert (tmp_path / "docs" / f"../results/{name}.json").exists()
    assert "| average accuracy, c = 0.1 | 0.969 | 0.965 (1 seed) | -0.004 |" in text
    # Only what stands beside a main result has a heading of its own.
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### Beside the protocol: 2 epochs instead of 20"
    ]
    assert "`synaptic run split-mnist`, 2.0 seconds of training (90.0 seconds by the clock) on a machine, torch" in text


def test_what_is_shorter_than_the_protocol_is_said_in_table_and_text(
    tmp_path: Path, results: dict[str, list[Path]]
) -> None:
    results["permuted-mnist"].reverse()
    page, *_ = write_paper(SECTIONS, results, tmp_path, results="")
    text = page.read_text("utf-8")
    overview = [line for line in text.splitlines() if line.startswith("| figure 4")]
    assert overview == [
        "| figure 4 | average accuracy, c = 0.1 | - | 0.965 (1 seed) |  | not the paper's protocol, 1 of 5 seeds |"
    ]
    assert text.count("This is not the paper's protocol: 2 epochs instead of 20.") == 2  # figures 4 and 5


def test_where_training_images_are_expected_the_overview_has_test_images_too(tmp_path: Path) -> None:
    runs = [run(0, "si", 1.0, last=[0.98, 0.96], train=[0.99, 0.97])]
    write_result(replace(RESULT, runs=runs), tmp_path / "split-mnist.json")
    page, *_ = write_paper(SECTIONS, {"split-mnist": [tmp_path / "split-mnist.json"]}, tmp_path, results="")
    overview = page.read_text("utf-8").partition("## ")[0]
    assert "| figure 3 | average accuracy, c = 1 | - | 0.970 (1 seed) |  |" in overview
    assert "|  | on training images, c = 1 | 0.97 to 0.99 | 0.980 (1 seed) | inside |" in overview


def test_the_overview_has_every_method_and_of_what_was_not_run_no_more_than_that(tmp_path: Path) -> None:
    runs = [run(0, "si", 0.1, last=[0.97, 0.96]), run(0, "joint", None, last=[0.98, 0.98])]
    runs += [run(seed, "si", 0.0, last=[0.5, 0.7]) for seed in range(5)]
    for name in ("permuted-mnist", "split-cifar10"):
        write_result(replace(RESULT, experiment=name, runs=runs, planned_runs=7), tmp_path / f"{name}.json")
    found = {name: [tmp_path / f"{name}.json"] for name in ("permuted-mnist", "split-cifar10")}
    page, *_ = write_paper(SECTIONS, found, tmp_path, results="")
    overview = page.read_text("utf-8").partition("## ")[0]
    # Of one method there is one seed.
    how = "the protocol's settings, 1 of 5 seeds"
    assert f"|  | average accuracy, all tasks at once | - | 0.980 (1 seed) |  | {how} |" in overview
    assert "|  | average accuracy, c = 0.02 | 0.939 | not run |  |  |" in overview
    assert "| beside the paper | average accuracy, without synapses (c = 0) | - | 0.600 ± 0.000 (5 seeds) |" in overview
    assert f"|  | average accuracy, c = 0.1 | - | 0.965 (1 seed) |  | {how} |" in overview


def test_each_main_result_says_which_network_learnt_and_how(tmp_path: Path) -> None:
    plan: dict[str, JSON] = {
        "network": "a network",
        "initialisation": "As it was",
        "optimizer": "Adam",
        "lr": 0.001,
        "xi": 0.1,
    }
    files = [tmp_path / f"split-mnist{end}.json" for end in ("", "-short")]
    for file, epochs, deviations in zip(files, (10, 1), ([], ["1 epoch instead of 10"]), strict=True):
        told: dict[str, JSON] = {**plan, "lr": 0.001, "batch_size": 64, "epochs": epochs, "xi": 0.1}
        result = replace(RESULT, settings=told, deviations=deviations, runs=[run(0, "si", 1.0, last=[0.9, 0.9])])
        write_result(replace(result, planned_runs=1), file)
    page, *_ = write_paper(SECTIONS, {"split-mnist": files}, tmp_path, results="")
    (line,) = (line for line in page.read_text("utf-8").splitlines() if line.startswith("Network: "))
    assert line == (
        "Network: a network. As it was. Adam; learning rate 0.001; batches of 64; 10 epochs of each task; xi = 0.1."
    )
    # An old result, which does not say it, has no such line.
    write_result(replace(RESULT, runs=[run(0, "si", 1.0, last=[0.9, 0.9])], planned_runs=1), files[0])
    page, *_ = write_paper(SECTIONS, {"split-mnist": files[:1]}, tmp_path, results="")
    assert "None" not in page.read_text("utf-8")
    assert "Network: " not in page.read_text("utf-8")


def test_the_network_of_the_measures_is_told_as_it_was(tmp_path: Path, results: dict[str, list[Path]]) -> None:
    path = results["importance-measures"][0]
    found = read_findings(path)
    write_findings(replace(found, settings={**found.settings, "hidden": 7, "reference": 43}), path)
    page, *_ = write_paper(SECTIONS, results, tmp_path, results="")
    text = " ".join(page.read_text("utf-8").split())
    assert "two hidden layers of 7 ReLUs, one head; epochs of Adam: 10; " in text
    assert "computed on the first 43 training images" in text


def test_what_is_run_once_more_says_why_it_stands_beside(tmp_path: Path) -> None:
    def heading(beside: list[Run]) -> str:
        runs = [run(0, "si", 0.0, last=[0.5, 0.7]), run(0, "si", 0.1, last=[0.7, 0.7])]
        files = [tmp_path / f"split-cifar10{end}.json" for end in ("", "-more")]
        for file, these in zip(files, (runs, beside), strict=True):
            write_result(replace(RESULT, experiment="split-cifar10", runs=these, planned_runs=2), file)
        page, *_ = write_paper(SECTIONS, {"split-cifar10": files}, tmp_path, results="")
        (line,) = (line for line in page.read_text("utf-8").splitlines() if line.startswith("### "))
        # The figure, which is seen alone, too, says the same.
        apart = line.removeprefix("### Also").partition(": ")[0]
        assert f"{RESULT.title}{apart}" in (tmp_path / "figures" / "split-cifar10-more.svg").read_text("utf-8")
        return line

    again = run(0, "si", 0.1, last=[0.6, 0.7])
    assert heading([again]) == "### Also, from another first task: c = 0.1"
    assert heading([replace(again, seed=3)]) == "### Also, with seed 3: c = 0.1"
    assert heading([replace(again, seed=seed) for seed in (3, 2)]) == "### Also, with seeds 2, 3: c = 0.1"
    assert heading([replace(again, c=2.0)]) == "### Also: c = 2"


def test_figure_6_has_the_accuracies_on_training_images_task_by_task(tmp_path: Path) -> None:
    runs = [run(seed, "si", 0.1, last=[0.5, 0.7], train=[0.8 + seed / 10, 1.0]) for seed in range(2)]
    runs += [run(0, "si", 0.0, last=[0.5, 0.7])]  # of an older file, without them
    for name in ("split-cifar10", "split-mnist"):
        write_result(replace(RESULT, experiment=name, runs=runs, planned_runs=3), tmp_path / f"{name}.json")
    found = {name: [tmp_path / f"{name}.json"] for name in ("split-cifar10", "split-mnist")}
    page, *_ = write_paper(SECTIONS, found, tmp_path, results="")
    text = page.read_text("utf-8")
    assert text.count("| on training images | seeds | 0/1 | 2/3 | average |") == 1
    _, _, table = text.partition("| on training images | seeds |")
    # Student's t of two seeds: 12.7 standard errors.
    assert table.splitlines()[2:4] == ["| c = 0.1 | 2 | 0.850 ± 0.635 | 1.000 ± 0.000 | 0.925 ± 0.318 |", ""]


def test_what_of_figure_4_was_not_run_is_named(tmp_path: Path, results: dict[str, list[Path]]) -> None:
    def told(*runs: Run) -> str:
        result = replace(RESULT, experiment="permuted-mnist", runs=[*runs], planned_runs=len(runs))
        write_result(result, results["permuted-mnist"][0])
        page, *_ = write_paper(SECTIONS, results, tmp_path, results="")
        return page.read_text("utf-8").partition("## Figure 4")[2].partition("## Figure 5")[0]

    methods = [
        ("si", 0.0),
        ("si", 0.01),
        ("si", 0.02),
        ("si", 0.1),
        ("ewc", 1e6),
        ("sgd-dropout", None),
        ("joint", None),
    ]
    runs = [run(0, *method, last=[0.9, 0.9]) for method in methods]
    lacking = "Not run in the full protocol: c = 0.02; EWC, c = 1000000."
    assert lacking in told(*runs[:2], runs[3], *runs[5:])
    assert "Not run in" not in told(*runs)


def test_correlations_come_from_permuted_mnist_until_they_have_runs_of_their_own(
    tmp_path: Path, results: dict[str, list[Path]]
) -> None:
    page, *_ = write_paper(SECTIONS, results, tmp_path, results="")
    section = page.read_text("utf-8").partition("## Figure 5")[2].partition("## ")[0]
    assert "permuted-mnist.json" in section
    assert "| second layer, mean over all pairs of tasks, c = 0.1 | - | 0.250 (1 seed) |" in section


@pytest.mark.parametrize(("ours", "command"), [(True, "run"), (False, "reproduce --only")])
def test_what_is_missing_is_said_with_its_command(tmp_path: Path, ours: bool, command: str) -> None:
    page, *figures = write_paper(SECTIONS, {}, tmp_path, results="", ours=ours)
    text = page.read_text("utf-8")
    assert figures == []
    for name in SECTIONS:
        assert f"{name}: not run yet" in text
        assert f"**Not run yet:** `synaptic {command} {name}`." in text
    assert "quick forms" not in text


def test_what_our_runs_show_is_said_of_them_alone(tmp_path: Path, results: dict[str, list[Path]]) -> None:
    ours, *_ = write_paper(SECTIONS, results, tmp_path / "ours", results="", ours=True)
    theirs, *_ = write_paper(SECTIONS, results, tmp_path / "theirs", results="")
    for claim in ("Not reproduced in full", "it does not rank the two", "ranks the other way round"):
        assert claim in ours.read_text("utf-8")
        assert claim not in theirs.read_text("utf-8")


def test_the_quick_page_says_so_first(tmp_path: Path) -> None:
    page, *_ = write_paper(SECTIONS, {}, tmp_path, results="", quick=True)
    assert page.read_text("utf-8").index("are not the paper's protocol") < 700


def test_unfinished_runs_are_counted(tmp_path: Path, results: dict[str, list[Path]]) -> None:
    runs = [run(0, "si", 1.0, last=[0.98, 0.99])]
    write_result(replace(RESULT, runs=runs, planned_runs=3), results["split-mnist"][0])
    page, *_ = write_paper(SECTIONS, results, tmp_path, results="")
    assert "the protocol's settings, 1 of 10 seeds, 1 of 3 runs" in page.read_text("utf-8")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "split-mnist.json"
    file.write_text("{")
    with pytest.raises(ResultError, match=r"split-mnist\.json"):
        write_paper(SECTIONS, {"split-mnist": [file]}, tmp_path, results="")


def test_an_outcome_is_read_as_what_it_is(
    results: dict[str, list[Path]], made_up_measures: Callable[..., Findings]
) -> None:
    assert read_outcome(results["importance-measures"][0]) == made_up_measures(2)
    assert read_outcome(results["split-mnist"][0]) == replace(RESULT, runs=[run(0, "si", 1.0, last=[0.98, 0.99])])


@pytest.mark.parametrize(("seconds", "words"), [(90.0, "90.0 seconds"), (600.0, "10.0 minutes"), (7200.0, "2.0 hours")])
def test_time_is_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert f", {words} on " in made(replace(RESULT, wall_seconds=seconds))


def test_a_resumed_run_says_how_often() -> None:
    environment: dict[str, JSON] = {**RESULT.environment, "resumed": [{"started": "x"}, {"started": "y"}]}
    assert made(replace(RESULT, environment=environment)).endswith(", resumed 2 times")
