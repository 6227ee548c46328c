from __future__ import annotations

import importlib.util
import io
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import Outcome
from made_up import RESULT, measures
from rich.console import Console

import synaptic_intelligence as si
import synaptic_intelligence.data
from synaptic_intelligence.cli import main
from synaptic_intelligence.cli.progress import show_progress
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.lock import alone_in
from synaptic_intelligence.experiments.plan import EpochDone, Job, JobStarted, Plan, Record, TaskDone
from synaptic_intelligence.experiments.workers import JobError
from synaptic_intelligence.findings import Findings, read_findings, write_findings
from synaptic_intelligence.result import Result, read_result, write_result
from synaptic_intelligence.tasks import Task

BUNDLED = Path(synaptic_intelligence.data.__file__).parent / "files" / "mnist"
QUICK = ["run", "split-mnist", "--seeds", "1", "--epochs", "1", "--limit", "200", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    outcome = Outcome(*QUICK, "--out", out)
    assert outcome.error == ""
    assert outcome.code == 0
    (out / "printed.txt").write_text(outcome.out, "utf-8")
    return out


def test_list_shows_every_experiment_and_its_place_in_the_paper() -> None:
    outcome = Outcome("list")
    assert outcome.code == 0
    line = next(line for line in outcome.out.splitlines() if line.startswith("split-mnist "))
    assert "five tasks of two digits, one head each" in line
    assert line.rstrip().endswith("figure 3")


def test_version() -> None:
    assert Outcome("--version").out.startswith(f"synaptic-intelligence {si.__version__}, torch ")


def test_help_promises_a_page_for_tasks_alone() -> None:
    for command in ("run", "report"):
        told = " ".join(Outcome(command, "--help").out.split())
        assert "and a page where tasks were learnt." in told


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["report", "--help"]])
def test_help_shows_examples(words: list[str]) -> None:
    outcome = Outcome(*words)
    assert outcome.code == 0
    assert "synaptic run split-mnist --resume" in outcome.out
    assert "synaptic report runs/split-mnist" in outcome.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "split-mnst"], "there is no experiment 'split-mnst'; did you mean split-mnist?"),
        (["run", "Split_MNIST"], "there is no experiment 'Split_MNIST'; did you mean split-mnist?"),
        (["run", "xyz"], "there is no experiment 'xyz'; there are: split-mnist"),
        (["run", "split-mnist", "--c", "-1"], "--c must be a finite number, 0 or more, not -1"),
        (["run", "split-mnist", "--epochs", "0"], "--epochs must be 1 or more, not 0"),
        (["run", "split-mnist", "--lr", "nan"], "--lr must be a positive finite number, not nan"),
        (["run", "split-mnist", "--workers", "-1"], "--workers must be 0 or more, not -1"),
        (["run", "split-mnist", "--threads", "0"], "--threads must be 1 or more, not 0"),
        (["run", "split-mnist", "--threads", "100000"], "--threads must be at most "),
        (["run", "split-mnist", "--device", "abacus"], "--device abacus: not available here; there are: cpu"),
        (["run", "split-mnist", "--device", "meta"], "--device meta: not available here; there are: cpu"),
        (
            ["run", "split-mnist", "--data-dir", "nowhere"],
            "--data-dir nowhere (or SYNAPTIC_DATA_DIR): there is no such folder",
        ),
        (["run", "split-mnist", "--resume"], "nothing to resume: there is no runs/split-mnist/result.json"),
        (["run", "toy", "--seeds", "5"], "toy has no --seeds: it takes --quick, --threads and the folders alone"),
        (
            ["run", "split-mnist", "--out", __file__],
            f"--out {__file__}: there is a file of that name, where a folder is to be",
        ),
        (["run", "toy", "--out", __file__], f"--out {__file__}: there is a file of that name"),
        (["report", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["report", "nowhere.json", "nowhere.json"], "two of these results have one folder"),
    ],
)
def test_wrong_input_gives_one_line(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = Outcome(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.error.startswith(f"synaptic: {reason}")
    assert outcome.error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = Outcome(*QUICK, "--out", tmp_path / "file")
    assert outcome.code == 2
    assert outcome.error.startswith("synaptic: ")
    assert outcome.error.count("\n") == 1


def test_a_run_prints_a_line_for_each_task_then_the_table_and_the_paths(finished: Path) -> None:
    lines = (finished / "printed.txt").read_text("utf-8").splitlines()
    assert lines[0] == "Split MNIST (figure 3 of the paper): 1 seed, c = 0 and 1; cpu, one process"
    assert lines[1] == ("Not the paper's protocol: 1 epoch instead of 10; only the first 200 images of each task")
    tasks = [line.split(" learnt")[0] for line in lines if " learnt in " in line]
    assert tasks[0] == "seed 0, first task: task 1/5 (0/1)"
    assert tasks[-1] == "seed 0, c = 1: task 5/5 (8/9)"
    assert len(tasks) == 9
    assert any(line.startswith("without synapses") for line in lines)
    for name in ("result.json", "figure.png", "figure.svg", "report.html"):
        assert any(line.endswith(str(finished / name)) for line in lines[-4:])
        assert (finished / name).stat().st_size > 500


def test_a_method_that_learns_all_tasks_at_once_says_so_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synaptic_intelligence.cli.progress._LONGEST_SILENCE", 0.0)
    tiny = ("--seeds", "1", "--tasks", "2", "--epochs", "1", "--limit", "200", "--workers", "1")
    outcome = Outcome("run", "permuted-mnist", *tiny, "--c", "0", "--rival", "joint", "--out", tmp_path)
    lines = [line for line in outcome.out.splitlines() if line.startswith("seed 0, joint: ")]
    result = read_result(tmp_path / "result.json")
    (joint,) = (run for run in result.runs if run.method == "joint")
    assert len(lines) == 2
    assert lines[0].startswith("seed 0, joint: all tasks epoch 1/1, loss ")
    assert lines[1].startswith("seed 0, joint: all tasks learnt in ")
    average = sum(joint.accuracy[0]) / len(joint.accuracy[0])
    assert f"test accuracy on them {average:.1%}; 100% of the run is done" in lines[1]


def test_the_result_names_the_command_that_gives_its_numbers(finished: Path) -> None:
    result = read_result(finished / "result.json")
    assert result.complete
    assert result.command == "synaptic run split-mnist --seeds 1 --epochs 1 --limit 200"
    assert str(finished.parent) not in (finished / "result.json").read_text()


def test_resuming_a_complete_run_says_so(finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    outcome = Outcome(*QUICK, "--out", finished, "--resume")
    assert (outcome.code, outcome.error) == (0, "")
    assert outcome.out.startswith(f"The run in {finished} is complete: nothing is left to train.")
    assert (finished / "result.json").read_bytes() == before


def test_a_folder_with_a_result_is_refused(finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    outcome = Outcome(*QUICK, "--out", finished)
    assert outcome.code == 2
    assert outcome.error == (
        f"synaptic: {finished} holds a complete result already. "
        "Start anew with --overwrite, or write elsewhere with --out\n"
    )
    assert (finished / "result.json").read_bytes() == before


def test_resuming_with_other_settings_is_refused_by_name(finished: Path) -> None:
    outcome = Outcome(*QUICK, "--out", finished, "--resume", "--lr", "0.01")
    assert outcome.code == 2
    assert "other settings: --lr was 0.001 and is 0.01." in outcome.error


def test_a_complete_run_is_extended(finished: Path, tmp_path: Path) -> None:
    before = read_result(finished / "result.json")
    shutil.copytree(finished, tmp_path / "run")
    more: tuple[str | Path, ...] = (*QUICK, "--c", "0", "--c", "1", "--c", "2", "--out", tmp_path / "run")
    refused = Outcome(*more, "--resume")
    assert refused.code == 2
    assert "other settings: --c was 0 1 and is 0 1 2. Add to it with --extend. Resume with its own" in refused.error
    fewer = Outcome(*QUICK, "--c", "0", "--out", tmp_path / "run", "--resume")
    assert "other settings: --c was 0 1 and is 0. Resume with its own settings" in fewer.error
    outcome = Outcome(*more, "--extend")
    assert (outcome.code, outcome.error) == (0, "")
    result = read_result(tmp_path / "run" / "result.json")
    assert result.command == "synaptic run split-mnist --seeds 1 --c 0.0 --c 1.0 --c 2.0 --epochs 1 --limit 200"
    assert result.complete
    assert [run.c for run in result.runs] == [0, 1, 2]
    assert result.runs[:2] == before.runs


@pytest.mark.parametrize("two", [("--resume", "--extend"), ("--extend", "--overwrite"), ("--resume", "--overwrite")])
def test_a_run_is_resumed_or_extended_or_replaced(tmp_path: Path, two: tuple[str, str]) -> None:
    outcome = Outcome(*QUICK, "--out", tmp_path / "run", *two)
    assert outcome.code == 2
    assert outcome.error == (
        "synaptic: --resume goes on with a run, --extend adds to one, and --overwrite replaces it: give one of them\n"
    )


def test_report_writes_figure_and_page_where_asked(finished: Path, tmp_path: Path) -> None:
    outcome = Outcome("report", finished, "--out", tmp_path / "new")
    assert (outcome.code, outcome.error) == (0, "")
    assert "without synapses" in outcome.out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["figure.png", "figure.svg", "report.html"]


def test_report_of_several_results_keeps_them_apart(finished: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(finished, second)
    outcome = Outcome("report", finished, second / "result.json", "--out", tmp_path / "new")
    assert outcome.code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["run", "second"]


def test_results_that_share_a_folder_get_a_folder_each(finished: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copy(finished / "result.json", tmp_path / f"{name}.json")
    results = [tmp_path / "one.json", tmp_path / "two.json"]
    made = sorted(f"{name}/{file}" for name in ("one", "two") for file in ("figure.png", "figure.svg", "report.html"))
    assert Outcome("report", *results, "--out", tmp_path / "new").code == 0
    assert sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").glob("*/*")) == made
    shutil.rmtree(tmp_path / "new")
    assert Outcome("report", *results).code == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == made
    # Under the folder that was asked for, one by one as well.
    assert Outcome("report", results[0], "--out", tmp_path / "new").code == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]


@pytest.mark.parametrize("content", ["{", json.dumps({"accuracy": 0.9})])
def test_report_of_a_file_that_is_no_result_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    outcome = Outcome("report", path)
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: {path}: ")


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (replace(measures(1), numbers={}), "its numbers are not those of importance-measures "),
        (replace(measures(1), numbers={"measures": 1}), "its numbers are not those of importance-measures "),
        (replace(measures(1), experiment="toy"), "its numbers are not those of toy "),
        (replace(measures(1), experiment="split-mnist"), "findings of 'split-mnist', but this version "),
        (replace(measures(1), experiment="other"), "findings of 'other', but this version "),
        (replace(RESULT, experiment="toy"), "a result of tasks, but 'toy' is a study, which leaves findings\n"),
    ],
)
def test_report_of_a_file_that_does_not_fit_its_experiment_says_so_in_one_line(
    outcome: Result | Findings, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    if isinstance(outcome, Result):
        write_result(outcome, path)
    else:
        write_findings(outcome, path)
    told = Outcome("report", path)
    assert (told.code, told.out) == (2, "")
    assert told.error.startswith(f"synaptic: {path}: {problem}")
    assert told.error.count("\n") == 1


def test_a_result_of_an_unknown_experiment_is_shown_as_any_other(tmp_path: Path) -> None:
    write_result(replace(RESULT, experiment="other"), tmp_path / "result.json")
    assert Outcome("report", tmp_path).code == 0


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synaptic_intelligence.cli.training.run", interrupted)
    outcome = Outcome(*QUICK, "--out", tmp_path / "my run")
    assert outcome.code == 130
    assert outcome.error == (
        "synaptic: stopped. What is done is kept; go on with\n"
        "    synaptic run split-mnist --seeds 1 --epochs 1 --limit 200 --workers 1 "
        f"--out '{tmp_path}/my run' --resume\n"
    )


@pytest.mark.parametrize("words", [["run", "split-mnist"], ["run", "toy", "--quick"]])
def test_an_interrupt_before_anything_is_kept_says_so(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synaptic_intelligence.experiments.split_mnist.load_mnist", interrupted)
    monkeypatch.setattr("synaptic_intelligence.cli.studying.run_study", interrupted)
    outcome = Outcome(*words, "--threads", "1", "--out", tmp_path / "my run")
    assert outcome.code == 130
    assert outcome.error.startswith("synaptic: stopped. ")
    told = {
        "split-mnist": "Nothing was trained; start with the same command again\n",
        "toy": "A study is computed in one go: nothing of it is kept. Start again with\n"
        f"    synaptic run toy --quick --out '{tmp_path}/my run'\n",
    }
    assert outcome.error == f"synaptic: stopped. {told[words[1]]}"


def test_a_study_that_is_stopped_while_it_is_shown_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synaptic_intelligence.cli.studying.run_study", lambda *_: measures(1))
    monkeypatch.setattr("synaptic_intelligence.cli.studying.report", interrupted)
    outcome = Outcome("run", "importance-measures", "--out", tmp_path / "run")
    assert outcome.code == 130
    assert outcome.error.endswith(f"The findings are kept; show them with\n    synaptic report {tmp_path}/run\n")
    assert read_findings(tmp_path / "run" / "findings.json") == measures(1)


def test_one_process_loads_the_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path | None] = []

    def load(folder: Path | None) -> Task:
        loaded.append(folder)
        return load_mnist(folder)

    monkeypatch.setattr("synaptic_intelligence.experiments.split_mnist.load_mnist", load)
    assert Outcome(*QUICK, "--out", tmp_path / "run").code == 0
    assert len(loaded) == 1


def test_a_failed_job_says_why_and_keeps_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order.")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("synaptic_intelligence.experiments.job.train_epoch", broken)
        outcome = Outcome(*QUICK, "--out", out)
    assert outcome.code == 1
    assert outcome.error.startswith(
        f"synaptic: seed 0, first task: RuntimeError: out of order. The traceback is in {out}/error.txt. What is done "
    )
    assert outcome.error.endswith(f"--workers 1 --out {out} --resume\n")
    assert "in broken" in (out / "error.txt").read_text()

    assert Outcome(*QUICK, "--out", out, "--resume").code == 0
    assert not (out / "error.txt").exists()


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_without_its_data_nothing_is_replaced_or_made(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (tmp_path / "data").mkdir()
    words = ["--data-dir", str(tmp_path / "data")] if way == "flag" else []
    if way == "variable":
        monkeypatch.setenv("SYNAPTIC_DATA_DIR", str(tmp_path / "data"))
    before = {path: path.read_bytes() for path in finished.iterdir()}
    for out in (finished, tmp_path / "new"):
        outcome = Outcome(*QUICK, *words, "--out", out, "--overwrite")
        assert outcome.code == 2
        assert outcome.error.startswith(f"synaptic: MNIST cannot be loaded from {tmp_path}/data/train-images")
        assert outcome.error.count("\n") == 1
        assert ".." not in outcome.error
    assert {path: path.read_bytes() for path in finished.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_the_variable_for_the_data_counts_as_its_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synaptic_intelligence.cli.training.run", interrupted)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYNAPTIC_DATA_DIR", "~/data")
    outcome = Outcome(*QUICK, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: --data-dir {tmp_path}/data (or SYNAPTIC_DATA_DIR): there is no such")
    shutil.copytree(BUNDLED, tmp_path / "data")
    assert f" --data-dir {tmp_path}/data " in Outcome(*QUICK, "--out", tmp_path / "run").error
    assert "SYNAPTIC_DATA_DIR" in Outcome("run", "--help").out


def test_a_folder_where_another_run_is_at_work_is_refused(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.iterdir()}
    with alone_in(finished):
        for words in (["--overwrite"], ["--resume"], []):
            outcome = Outcome(*QUICK, "--out", finished, *words)
            assert outcome.code == 2
            assert outcome.error.startswith(f"synaptic: another run is at work in {finished}. ")
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of at most 100 kB: a result fits, a checkpoint does not."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    outcome = Outcome(*QUICK, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert re.match(
        r"synaptic: seed 0, first task: OSError: \[Errno \d+\] File too large: '.*/seed-0-first-task\.pt'\. ",
        outcome.error,
    )
    assert "--resume" in outcome.error
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == []


def test_a_traceback_that_cannot_be_kept_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        (tmp_path / "run" / "error.txt").mkdir()
        raise JobError("seed 0: why", details="Traceback of it")

    monkeypatch.setattr("synaptic_intelligence.cli.training.run", broken)
    outcome = Outcome(*QUICK, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert outcome.error.startswith("Traceback of it\nsynaptic: seed 0: why. What is done is kept; go on with\n")


def test_a_training_that_diverged_is_not_to_be_resumed(tmp_path: Path) -> None:
    outcome = Outcome(*QUICK, "--lr", "1e30", "--out", tmp_path / "run")
    assert outcome.code == 1
    assert outcome.error.startswith("synaptic: seed 0, first task: SynapseError: ")
    assert "The training has diverged, and would again: choose other settings" in outcome.error
    assert "--resume" not in outcome.error


def test_an_extension_that_diverged_says_where_the_run_is_kept(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    outcome = Outcome(*QUICK, "--c", "0", "--c", "1", "--c", "1e300", "--out", run, "--extend")
    assert outcome.code == 1
    assert f"is kept: mv {run / 'result.before.json'} {run / 'result.json'}" in outcome.error
    assert (run / "result.before.json").read_bytes() == (finished / "result.json").read_bytes()


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "typer" else real(name))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == (
        "synaptic: the command line needs typer, not installed here. Install it with\n"
        '    pip install "synaptic-intelligence[experiments]"'
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_bar_for_each_job_and_one_for_all(tmp_path: Path, width: int) -> None:
    experiment = EXPERIMENTS["split-mnist"]
    plan = Plan(experiment, experiment.paper, "cpu", 1, None, tmp_path)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, _environ={"TERM": "xterm"})
    first, second = Job(0, None), Job(1, None)
    with show_progress(plan, {}, console) as listen:
        for job in (first, second):
            listen(JobStarted(job, 0, 0))
        for epoch in range(10):
            listen(EpochDone(first, 0, epoch, loss=0.1234, accuracy=0.987, seconds=1.0))
        listen(EpochDone(second, 0, 0, loss=2.5, accuracy=0.25, seconds=2.0))
        shown = _drawn(console, screen)
        listen(TaskDone(first, 0, Record([0.5] * 5, [[0.9] * 5], [0.987], [10.0])))
        after = _drawn(console, screen)
    # 10 seeds x (1 first task + 2 strengths x 4 tasks) x 10 epochs.
    assert any(line.startswith("all ") and "11 of 900 epochs" in line and line.endswith("left") for line in shown)
    assert any(
        line.startswith("seed 0, first task ") and "task 1/5 epoch 10/10 loss 0.1234 acc  98.7%" in line
        for line in shown
    )
    assert any("task 1/5 epoch 1/10  loss 2.5000 acc  25.0% 0:18 left" in line for line in shown)
    assert [line for line in shown if len(line) > width] == []
    bars = [line for line in after if line]
    assert [line.startswith(name) for line, name in zip(bars, ("all ", "seed 1, first task "), strict=True)] == [
        True,
        True,
    ]


def test_where_no_bars_can_be_drawn_a_long_task_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = math.ceil(time.monotonic())  # whole, so that sums are exact
    monkeypatch.setattr("time.monotonic", lambda: now)
    experiment = EXPERIMENTS["split-mnist"]
    plan = Plan(experiment, experiment.paper, "cpu", 1, None, tmp_path)
    job = Job(0, None)
    with show_progress(plan, {}, Console(file=io.StringIO())) as listen:
        listen(JobStarted(job, 0, 0))
        for epoch in range(8):
            now += 10
            listen(EpochDone(job, 0, epoch, loss=0.1234, accuracy=0.987, seconds=10.0))
    assert capsys.readouterr().out.splitlines() == [
        f"seed 0, first task: task 1/5 epoch {epoch}/10, loss 0.1234, training accuracy 98.7%; "
        f"{epoch / 900:.0%} of the run is done, about {left} left"
        for epoch, left in ((3, "2:29:30"), (6, "2:29:00"))
    ]


def test_progress_counts_images_and_goes_on_from_where_a_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = math.ceil(time.monotonic())
    monkeypatch.setattr("time.monotonic", lambda: now)
    experiment = EXPERIMENTS["split-cifar"]
    plan = Plan(experiment, replace(experiment.paper, seeds=1), "cpu", 1, None, tmp_path)
    sizes = [50_000, *[5_000] * 5]
    with show_progress(plan, {}, Console(file=io.StringIO()), sizes) as listen:
        listen(JobStarted(Job(0, None), 0, 16))
        now += 50
        listen(EpochDone(Job(0, None), 0, 16, loss=0.5, accuracy=0.8, seconds=50.0))
    # 17 of 60 epochs of 50 000 images; in all 60 of them, and 4 methods x 5 tasks x 60 epochs of 5 000: 9 million.
    left = round(50 * (9_000_000 - 17 * 50_000) / 50_000)
    assert f"; 9% of the run is done, about {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left" in (
        capsys.readouterr().out
    )
    # The tasks that a job had trained count from the beginning, not only when its turn has come.
    first, half = Job(0, None), Job(0, plan.settings.methods[0])
    records = {first: _record(tasks=1), half: _record(tasks=4)}
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, no_color=True, _environ={"TERM": "xterm"})
    with show_progress(plan, records, console, sizes) as listen:
        listen(JobStarted(Job(0, plan.settings.methods[1]), 1, 0))
        (whole,) = (line for line in _drawn(console, screen) if line.startswith("all "))
        before = _share(whole)
        listen(JobStarted(half, 4, 30))
        (whole,) = (line for line in _drawn(console, screen) if line.startswith("all "))
    assert "270 of 1260 epochs" in whole
    # Of 9 million images 3 + 0.9, then 0.15 more; of the epochs it would be 0.19 and 0.21.
    assert before == pytest.approx(3.9 / 9, abs=0.02)
    assert _share(whole) == pytest.approx(4.05 / 9, abs=0.02)


def _record(tasks: int) -> Record:
    return Record([0.1] * 6, [[0.1] * 6] * tasks, [0.9] * tasks, [], [1.0] * tasks)


def _share(line: str) -> float:
    """How much of the bar in a line is filled; what is empty is blank where there is no colour."""
    found = re.fullmatch(r"all +(━[━╸ ]+) \d+ of .*", line)
    assert found is not None
    return found[1].count("━") / len(found[1])


def _drawn(console: Console, screen: io.StringIO) -> list[str]:
    """The lines that the bars draw next."""
    before = len(screen.getvalue())
    console.print("")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()[before:])
    return [line.strip() for line in plain.splitlines()]
