from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import synaptic_intelligence as si
from synaptic_intelligence.cli import main
from synaptic_intelligence.cli.app import app
from synaptic_intelligence.cli.progress import show_progress
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.plan import EpochDone, Job, JobStarted, Plan, Record, TaskDone
from synaptic_intelligence.result import read_result

QUICK = ["run", "split-mnist", "--seeds", "1", "--epochs", "1", "--limit", "200", "--workers", "1"]


class Outcome:
    def __init__(self, *words: str | Path) -> None:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.code, self.out, self.error = done.exit_code, done.stdout, done.stderr


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
        (["run", "split-mnist", "--c", "-1"], "c must be 0 or more, not -1"),
        (["run", "split-mnist", "--epochs", "0"], "epochs must be 1 or more, not 0"),
        (["run", "split-mnist", "--lr", "nan"], "lr must be a positive number, not nan"),
        (["run", "split-mnist", "--workers", "-1"], "--workers must be 0 or more, not -1"),
        (["run", "split-mnist", "--threads", "0"], "--threads must be 1 or more, not 0"),
        (["run", "split-mnist", "--device", "abacus"], "--device abacus: Expected one of cpu, "),
        (["run", "split-mnist", "--device", "meta"], "--device meta: it holds no numbers"),
        (["run", "split-mnist", "--data-dir", "nowhere"], "--data-dir nowhere: there is no such folder"),
        (["run", "split-mnist", "--resume"], "nothing to resume: there is no runs/split-mnist/result.json"),
        (["run", "split-mnist", "--resume", "--overwrite"], "--resume goes on with a run and --overwrite"),
        (["report", "nowhere.json"], "[Errno 2] No such file or directory: 'nowhere.json'"),
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
    assert lines[1] == (
        "Not the paper's protocol: 1 epoch instead of 10; only the first 200 training images of each task"
    )
    tasks = [line.split(" learnt")[0] for line in lines if " learnt in " in line]
    assert tasks[0] == "seed 0, first task: task 1/5 (0/1)"
    assert tasks[-1] == "seed 0, c = 1: task 5/5 (8/9)"
    assert len(tasks) == 9
    assert any(line.startswith("without synapses") for line in lines)
    for name in ("result.json", "figure.png", "figure.svg", "report.html"):
        assert any(line.endswith(str(finished / name)) for line in lines[-4:])
        assert (finished / name).stat().st_size > 500


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
    assert "other settings: lr was 0.001 and is 0.01." in outcome.error


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


@pytest.mark.parametrize("content", ["{", json.dumps({"accuracy": 0.9})])
def test_report_of_a_file_that_is_no_result_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    outcome = Outcome("report", path)
    assert outcome.code == 2
    assert outcome.error.startswith(f"synaptic: {path}: ")


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


def test_a_failed_job_says_why_and_keeps_the_traceback(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    outcome = Outcome(*QUICK, "--data-dir", data, "--out", out)
    assert outcome.code == 1
    assert outcome.error.startswith("synaptic: seed 0, first task: DataError: MNIST cannot be loaded from ")
    assert f"The traceback is in {out}/error.txt. " in outcome.error
    assert outcome.error.endswith(f"--workers 1 --data-dir {data} --out {out} --resume\n")
    assert "in load_mnist" in (out / "error.txt").read_text()

    assert Outcome(*QUICK, "--out", out, "--resume").code == 0
    assert not (out / "error.txt").exists()


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


def _drawn(console: Console, screen: io.StringIO) -> list[str]:
    """The lines that the bars draw next."""
    before = len(screen.getvalue())
    console.print("")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()[before:])
    return [line.strip() for line in plain.splitlines()]
