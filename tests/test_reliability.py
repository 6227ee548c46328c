"""Short forms of what stress/ tries at length: kills, damaged files, full disks, concurrent readers, long lives."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import consolidations
import disks
import kills
import loop
import pytest
import readers
import soak
import torch
from disk import no_file_larger_than
from formats import FORMATS
from fuzz import Inputs
from record import Record, trend
from typer.testing import CliRunner

from synaptic_intelligence.cli.app import app
from synaptic_intelligence.result import read_result

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--seeds", "1", "--c", "1", "--epochs", "2", "--tasks", "2", "--limit", "64"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and sets limits of POSIX")


# Kills.


def test_a_loop_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    row = kills.own_loop(2, random.Random(0), tmp_path)
    assert row["kills"] == 2


def test_the_kills_would_notice_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    reference = loop.states(tmp_path / "reference")
    state = deepcopy(reference[loop.EVERY][0])
    (tmp_path / "other").mkdir()
    torch.save(state, tmp_path / "other" / "checkpoint.pt")
    kills._check_loop(tmp_path / "other", reference)
    state["model"]["0.weight"][0, 0] += 1e-6
    torch.save(state, tmp_path / "other" / "checkpoint.pt")
    with pytest.raises(kills.PromiseError, match="the checkpoint of step 5 is another than it was"):
        kills._check_loop(tmp_path / "other", reference)


def test_a_run_that_is_killed_while_it_writes_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synaptic_intelligence.cli", "run", "split-mnist", *QUICK, "--workers", "1"]
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, start_new_session=True)
    # From the first checkpoint on, so that there is something to lose.
    while not any(out.glob("checkpoints/seed-*.pt")) or not any(kills.half_written(out)):
        assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    read_result(out / "result.json")
    for words in (["--out", str(out), "--resume"], ["--out", str(tmp_path / "whole")]):
        done = CliRunner().invoke(app, ["run", "split-mnist", *QUICK, "--workers", "1", *words])
        assert (done.exit_code, done.stderr) == (0, "")
    whole, resumed = (read_result(tmp_path / name / "result.json") for name in ("whole", "killed"))
    assert kills.numbers(resumed) == kills.numbers(whole)
    assert not any(kills.half_written(out))


# Damaged files.


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_and_hostile_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    inputs = Inputs(name, 1, tmp_path / "inputs")
    inputs.folder.mkdir()
    inputs.prove()
    hostile = inputs.format.hostile(inputs.marker)
    outcomes = {number: inputs.outcome(hostile[number]) for number in range(0, len(hostile), 3)}
    outcomes |= {-n: inputs.outcome(inputs.format.damaged(random.Random(n))) for n in range(1, 151)}
    assert {number: said for number, said in outcomes.items() if said not in ("read", "refused")} == {}
    assert "refused" in outcomes.values()


def test_an_input_that_runs_code_is_noticed(tmp_path: Path) -> None:
    class Unpickles:
        def __init__(self) -> None:
            self.file, self.corpus = "input", [b""]

        def hostile(self, marker: Path) -> list[bytes]:
            return []

        def damaged(self, rng: random.Random) -> bytes:
            return b""

        def read(self, path: Path) -> bool:
            torch.load(path, weights_only=False)
            return True

    inputs = Inputs("state-dict", 0, tmp_path)
    trap = inputs.format.hostile(inputs.marker)[-2]
    assert inputs.outcome(trap) == "refused"
    inputs.format = Unpickles()
    assert inputs.outcome(trap) == "the input was unpickled and has run"
    assert inputs.outcome(b"no archive").startswith("UnpicklingError: ")


# Disks.


def failing(number: int) -> Any:
    def fail(*arguments: Any, **named: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("how", ["full at once", "full half-way", "full at the end", "read-only"])
def test_where_nothing_can_be_written_the_old_file_stays_and_the_error_says_where(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    for name, (file, write) in disks.writers(tmp_path / "parts").items():
        (tmp_path / name).mkdir()
        write(tmp_path / name / file)
        size = {"full at once": 0, "full half-way": 4096}.get(how, resource.RLIM_INFINITY)
        with monkeypatch.context() as patched, no_file_larger_than(size):
            if how == "full at the end":
                patched.setattr(os, "fsync", failing(errno.ENOSPC))
            if how == "read-only":
                patched.setattr(tempfile, "mkstemp", failing(errno.EROFS))
            assert disks.attempt(write, tmp_path / name / file) == "", name


@pytest.mark.parametrize(
    ("size", "code", "where"), [(100, 2, "result.json"), (200_000, 1, "seed-0-first-task.pt"), (5, 2, "result.json")]
)
def test_the_command_line_says_in_a_line_that_the_disk_is_full(
    size: int, code: int, where: str, tmp_path: Path
) -> None:
    with no_file_larger_than(size):
        done = CliRunner().invoke(app, ["run", "split-mnist", *QUICK, "--workers", "1", "--out", str(tmp_path / "run")])
    assert done.exit_code == code
    assert done.stderr.startswith("synaptic: ")
    assert done.stderr.count("synaptic: ") == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert where in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".part"] == []


def test_a_report_that_cannot_be_written_says_so_in_a_line(tmp_path: Path) -> None:
    with no_file_larger_than(100):
        done = CliRunner().invoke(app, ["report", str(ROOT / "results" / "demo.json"), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == f"synaptic: {tmp_path}/demo/report.html: File too large\n"
    assert list((tmp_path / "demo").iterdir()) == []


# Readers.


@pytest.mark.parametrize("kind", readers.KINDS)
def test_readers_of_a_file_that_is_replaced_all_the_time_never_see_half_of_it(kind: str, tmp_path: Path) -> None:
    row, wrong = readers.contend(kind, 1.0, tmp_path, readers=2)
    assert list(wrong) == []
    assert row["read"] > 5
    assert row["written"] > 5


# Long lives.


@pytest.mark.parametrize("form", [consolidations.FORMS[1], consolidations.FORMS[5]])
def test_many_consolidations_are_those_of_the_equations(
    form: consolidations.Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidations, "SAMPLES", 5)
    row, broken = consolidations.live(form, 60)
    # Memory and time need more than this to be told from chance.
    assert [each for each in broken if "bytes more" not in each and "takes" not in each] == []
    assert row["finite"]
    assert row["tensors"][0] == row["tensors"][1]
    assert 0 < row["worst_error_of_one"] <= (2.0**-8 if form[1] else 1e-5)


def test_another_omega_than_that_of_the_equations_is_noticed() -> None:
    watched = consolidations.Watched()
    before, path, moved = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([1.0])
    watched.see(before, path, moved, 0.9 * before + 0.5 / 1.001, 0.9)
    assert watched.step_error < 1e-6
    watched.see(before, path, moved, before + 0.5 / 1.001, 0.9)
    assert watched.step_error > 0.05


def test_a_short_soak_has_all_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "STEPS", 4)
    record = Record("python stress/soak.py", tmp_path / "stress-soak.json")
    soak.soak(0.0, 0.0, record, tmp_path)
    assert [row["tasks"] for row in record.rows] == [8, 16, 24, 32, 40, 48]
    assert record.broken == []
    assert len({row["open_files"] for row in record.rows[1:]}) == 1
    assert len({row["tensors"] for row in record.rows[1:]}) == 1


def rows(grows: str = "", by: float = 0.0) -> list[dict[str, Any]]:
    noise = random.Random(0)
    found = []
    for minute in range(60):
        row: dict[str, Any] = {
            "minutes": float(minute),
            "resident_mb": 400 + noise.uniform(-1, 1),
            "open_files": 6,
            "tensors": 170,
            "step_over_plain": {form: 1.5 + noise.uniform(-0.05, 0.05) for form in soak.FORMS},
        }
        if grows in row:
            row[grows] += by * minute
        if grows in soak.FORMS:
            row["step_over_plain"][grows] += by * minute
        found.append(row)
    return found


@pytest.mark.parametrize(
    ("grows", "by", "said"),
    [
        ("resident_mb", 0.2, "resident_mb rose by 1."),
        ("open_files", 1, "open_files: 65 in the second half, 35 in the first"),
        ("tensors", 1, "tensors: 229 in the second half, 199 in the first"),
        ("hooks", 0.01, "step, hooks rose by 1"),
    ],
)
def test_growth_is_found(grows: str, by: float, said: str) -> None:
    assert soak.growth(rows())[1] == []
    (found,) = soak.growth(rows(grows, by))[1]
    assert found.startswith(said)


def test_a_trend_is_the_line_of_least_squares() -> None:
    noise = random.Random(0)
    x = [float(i) for i in range(50)]
    y = [3.0 * each + noise.gauss(0, 1) for each in x]
    found = trend(x, y)
    from scipy.stats import linregress, t

    right = linregress(x, y)
    assert found.slope == pytest.approx(right.slope, rel=1e-12)
    assert found.half_width == pytest.approx(t.ppf(0.975, 48) * right.stderr, rel=1e-12)


def test_a_broken_promise_ends_with_exit_code_1_and_the_case_beside_the_figures(tmp_path: Path) -> None:
    record = Record("python stress/none.py", tmp_path / "stress-none.json", broken=["it broke"])
    assert record.keep("case.bin", b"case") == tmp_path / "stress-none" / "case.bin"
    with pytest.raises(SystemExit) as ended:
        record.end()
    assert ended.value.code == 1
    assert '"it broke"' in record.path.read_text("utf-8")
