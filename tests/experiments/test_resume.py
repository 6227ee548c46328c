"""A run that is stopped anywhere and resumed ends with the numbers of one that was not, to the last bit."""

from __future__ import annotations

import shutil
import struct
import zipfile
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SETTINGS, TINY, Stop, ignore, network, numbers, resume, start, stop_at, stream

import synaptic_intelligence as si
from synaptic_intelligence.experiments.checkpoint import CheckpointError, read_checkpoint
from synaptic_intelligence.experiments.folder import BEFORE, RefusedError, resume_run, start_run
from synaptic_intelligence.experiments.plan import EpochDone, Message, Plan
from synaptic_intelligence.experiments.runner import run
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.experiments.workers import JobError
from synaptic_intelligence.result import Result, Run, read_result, write_result
from synaptic_intelligence.tasks import Stream
from synaptic_intelligence.train import evaluate as accuracy_on
from synaptic_intelligence.train import train_epoch


def _plan(out: Path, settings: Settings = SETTINGS) -> Plan:
    return Plan(TINY, settings, device="cpu", threads=1, data_dir=None, out=out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return start(_plan(tmp_path_factory.mktemp("whole")))


def test_a_run_equals_an_ordinary_loop(whole: Result) -> None:
    """Neither the shared first task nor the way through checkpoints changes a number."""
    seed, c, tasks = 4, 50.0, stream()
    model = network(torch.Generator().manual_seed(2 * seed))
    order = torch.Generator().manual_seed(2 * seed + 1)
    baseline = [accuracy_on(model, task, multi_head=True) for task in tasks]
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS.lr, fused=True)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=SETTINGS.xi)
    rows, train_accuracy = [], []
    for task in tasks:
        for _ in range(SETTINGS.epochs):
            epoch = train_epoch(model, optimizer, task, batch_size=8, generator=order, multi_head=True)
        synapses.consolidate()
        rows.append([accuracy_on(model, other, multi_head=True) for other in tasks])
        train_accuracy.append(epoch.accuracy)
        optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS.lr, fused=True)
        synapses.attach(optimizer)
    trained = [replace(task, test_inputs=task.train_inputs, test_targets=task.train_targets) for task in tasks]
    final_train = [accuracy_on(model, task, multi_head=True) for task in trained]
    assert (seed, "si", c, rows, baseline, train_accuracy, final_train, {}) in numbers(whole)


def test_adam_that_counts_on_is_one_whose_moments_alone_are_cleared(tmp_path: Path, whole: Result) -> None:
    """As the authors' code does it; also after a stop at the start of a task and in its midst."""
    seed, c, tasks = 4, 50.0, stream()
    model = network(torch.Generator().manual_seed(2 * seed))
    order = torch.Generator().manual_seed(2 * seed + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS.lr, fused=True)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=SETTINGS.xi)
    rows = []
    for task in tasks:
        for _ in range(SETTINGS.epochs):
            train_epoch(model, optimizer, task, batch_size=8, generator=order, multi_head=True)
        synapses.consolidate()
        rows.append([accuracy_on(model, other, multi_head=True) for other in tasks])
        for state in optimizer.state.values():
            state["exp_avg"].zero_()
            state["exp_avg_sq"].zero_()
    counting = replace(SETTINGS, keep_step_count=True)
    results = [start(_plan(tmp_path / "once", counting))]
    for number in (31, 33):
        with pytest.raises(Stop):
            start(_plan(tmp_path / str(number), counting), stop_at(number))
        results.append(resume(_plan(tmp_path / str(number), counting)))
    for result in results:
        assert [run.accuracy for run in result.runs if (run.seed, run.c) == (seed, c)] == [rows]
        assert numbers(result) == numbers(results[0]) != numbers(whole)


@pytest.mark.parametrize("coarse", [True, False])
def test_omega_is_as_wide_as_it_was_asked_for(tmp_path: Path, coarse: bool) -> None:
    plan = _plan(tmp_path, replace(SETTINGS, seeds=1, c=(50.0,), coarse_omega=coarse))
    with pytest.raises(Stop):
        start(plan, stop_at(8))
    checkpoint = read_checkpoint(plan.checkpoints / "seed-3-c-50.0.pt")
    assert checkpoint is not None
    omega = checkpoint.synapses["omega"].values()
    assert {tensor.dtype for tensor in omega} == {torch.bfloat16 if coarse else torch.float32}
    assert any(bool(tensor.any()) for tensor in omega)


def test_a_result_from_before_a_setting_goes_on(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path)
    younger = ("keep_step_count", "coarse_omega")
    settings = {name: value for name, value in whole.settings.items() if name not in younger}
    write_result(replace(whole, settings=settings, runs=whole.runs[:1]), plan.result)
    assert numbers(resume(plan)) == numbers(whole)
    write_result(replace(whole, settings=settings, runs=whole.runs[:1]), plan.result)
    with pytest.raises(RefusedError, match="--keep-step-count was False and is True"):
        resume_run(_plan(tmp_path, replace(SETTINGS, keep_step_count=True)), 1)


def test_the_strengths_share_the_first_task_and_differ_after_it(whole: Result) -> None:
    without, with_synapses = whole.runs[:2]
    assert (without.seed, without.c, with_synapses.seed, with_synapses.c) == (3, 0.0, 3, 50.0)
    assert without.accuracy[0] == with_synapses.accuracy[0]
    assert without.task_seconds[0] == with_synapses.task_seconds[0] > 0
    assert without.accuracy[1:] != with_synapses.accuracy[1:]


def test_a_complete_run_leaves_its_result_alone(tmp_path: Path, whole: Result) -> None:
    result = start(_plan(tmp_path))
    assert numbers(result) == numbers(whole)
    assert result.complete
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert read_result(tmp_path / "result.json") == result


def test_the_global_random_state_is_neither_used_nor_changed(tmp_path: Path, whole: Result) -> None:
    torch.manual_seed(12345)
    before = torch.random.get_rng_state()
    assert numbers(start(_plan(tmp_path))) == numbers(whole)
    assert torch.equal(torch.random.get_rng_state(), before)


# The first task tells 4 messages (start, 2 epochs, task), and each of the 2 strengths 7 (start, 2 x (2 epochs, task)).
@pytest.mark.parametrize("message_number", range(1, 19))
def test_stopped_at_any_message_it_resumes_to_the_same_numbers(
    tmp_path: Path, whole: Result, message_number: int
) -> None:
    plan = _plan(tmp_path, replace(SETTINGS, seeds=1))
    heard: list[Message] = []
    with pytest.raises(Stop):
        start(plan, stop_at(message_number, heard))
    resumed = resume(plan, heard.append)
    assert numbers(resumed) == numbers(whole)[:2]
    assert all(len(r.task_seconds) == 3 for r in resumed.runs)
    assert not plan.checkpoints.exists()
    # What was trained before the stop is not trained again.
    assert sum(isinstance(message, EpochDone) for message in heard) == 10


def test_stopped_between_checkpoint_and_result_it_resumes_to_the_same_numbers(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path)
    result = start_run(plan, 1, "synaptic run tiny", overwrite=False)
    old = plan.result.read_bytes()
    with pytest.raises(Stop):
        run(plan, result, {}, 1, stop_at(30))
    plan.result.write_bytes(old)
    (tmp_path / ".result.json.abc.part").write_bytes(old[:10])
    assert numbers(resume(plan)) == numbers(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_run_that_the_result_has_whole_is_kept_without_its_checkpoints(tmp_path: Path, whole: Result) -> None:
    """As on another machine, where the result has come but the checkpoints have not."""
    plan = _plan(tmp_path)
    planned = len(plan.jobs) - len(plan.settings.all_seeds)
    runs = [run for run in whole.runs if run.seed == 3][:1]
    write_result(replace(whole, runs=runs), plan.result)
    told: list[Message] = []
    result = resume(plan, told.append)
    trained = {str(message.job) for message in told}
    assert planned == len(whole.runs)
    assert numbers(result) == numbers(whole)
    assert "seed 3, c = 0" not in trained
    assert {"seed 3, first task", "seed 3, c = 50", "seed 4, first task", "seed 4, c = 0", "seed 4, c = 50"} <= trained


def test_a_run_that_is_whole_is_not_replaced_by_an_older_checkpoint(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(Stop):
        start(plan, stop_at(14))
    stale = [job for job, record in resume_run(plan, 1)[1].items() if job.method is not None and job.seed == 3]
    assert stale
    write_result(replace(whole, runs=[run for run in whole.runs if run.seed == 3]), plan.result)
    told: list[Message] = []
    assert numbers(resume(plan, told.append)) == numbers(whole)
    assert not [message for message in told if message.job in stale]


def test_a_first_task_that_no_run_waits_for_is_not_trained_again(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path)
    write_result(replace(whole, runs=[run for run in whole.runs if run.seed == 3]), plan.result)
    told: list[Message] = []
    assert numbers(resume(plan, told.append)) == numbers(whole)
    assert {message.job.seed for message in told} == {4}


def test_a_job_that_another_process_ended_meanwhile_is_told_of(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path, replace(SETTINGS, seeds=1))
    with pytest.raises(Stop):
        start(plan, stop_at(10))
    resumed = resume_run(plan, 1)
    # The workers of a killed run may still write a last checkpoint after they were read.
    with pytest.raises(Stop):
        resume(plan, stop_at(6))
    assert numbers(run(plan, *resumed, 1, ignore)) == numbers(whole)[:2]


def test_an_incomplete_result_is_no_success_and_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tmp_path)
    monkeypatch.setattr("synaptic_intelligence.experiments.runner.run_here", lambda *_: None)
    result = start_run(plan, 1, "synaptic run tiny", overwrite=False)
    (plan.checkpoints / "seed-3-c-0.0.pt").touch()
    with pytest.raises(JobError, match="only 0 of 4 runs are complete; the checkpoints are kept"):
        run(plan, result, {}, 1, ignore)
    assert [path.name for path in plan.checkpoints.iterdir()] == ["seed-3-c-0.0.pt"]


def test_a_result_says_when_it_was_resumed_and_what_was_other_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(Stop):
        start(plan, stop_at(3))
    first = read_result(plan.result)
    with pytest.raises(Stop):
        resume(plan, stop_at(3))
    git = {"commit": "0" * 40, "changed": True}
    monkeypatch.setattr("synaptic_intelligence.experiments.environment.git_state", lambda package: git)
    run(plan, *resume_run(plan, 2), 1, ignore)
    environment = read_result(plan.result).environment
    sittings = environment.pop("resumed")
    assert environment == first.environment
    assert isinstance(sittings, list)
    assert [list(sitting) for sitting in sittings if isinstance(sitting, dict)] == [
        ["started"],
        ["started", "workers", "git"],
    ]
    second = sittings[1]
    assert isinstance(second, dict)
    assert (second["workers"], second["git"]) == (2, git)


def test_the_result_grows_with_each_task(tmp_path: Path) -> None:
    plan, lengths = _plan(tmp_path, replace(SETTINGS, seeds=1)), []

    def listen(message: Message) -> None:
        lengths.append([len(r.accuracy) for r in read_result(plan.result).runs])

    start(plan, listen)
    assert lengths[0] == []
    assert [now for now, before in zip(lengths[1:], lengths, strict=False) if now != before] == [
        [1, 1],
        [2, 1],
        [3, 1],
        [3, 2],
        [3, 3],
    ]


@pytest.mark.parametrize("name", ["seed-3-first-task.pt", "seed-3-c-0.0.pt"])
@pytest.mark.parametrize("harm", ["cut", "bit", "other"])
def test_a_damaged_checkpoint_is_named_and_can_be_deleted(tmp_path: Path, whole: Result, name: str, harm: str) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(Stop):
        start(plan, stop_at(14))
    path = plan.checkpoints / name
    content = bytearray(path.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "bit":
        # In a tensor's numbers, where torch.load would take it for another number.
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda part: part.file_size)
        names = struct.unpack_from("<HH", content, largest.header_offset + 26)
        content[largest.header_offset + 30 + sum(names) + largest.file_size // 2] ^= 1
    else:
        content = bytearray(b"something else")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: .*Delete it, then resume"):
        resume_run(plan, 1)
    path.unlink()
    assert numbers(resume(plan)) == numbers(whole)


def test_resuming_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        start(_plan(tmp_path), stop_at(3))
    other = _plan(tmp_path, replace(SETTINGS, epochs=3, c=(0.0, 1.0)))
    with pytest.raises(RefusedError, match=r"--c was 0 50 and is 0 1; --epochs was 2 and is 3\. .*synaptic run tiny"):
        resume_run(other, 1)
    with pytest.raises(RefusedError, match="threads was 1 and is 2"):
        resume_run(replace(_plan(tmp_path), threads=2), 1)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"nothing to resume: there is no .*result\.json"):
        resume_run(_plan(tmp_path), 1)


def test_a_folder_with_a_run_is_refused_unless_overwritten(tmp_path: Path, whole: Result) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(Stop):
        start(plan, stop_at(3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError, match="not complete"):
        start(plan)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "figure.png").touch()
    result = start_run(plan, 1, "synaptic run tiny", overwrite=True)
    assert result.runs == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "result.json"]
    assert numbers(run(plan, result, {}, 1, ignore)) == numbers(whole)
    with pytest.raises(RefusedError, match="complete result"):
        start(plan)


def test_checkpoints_or_a_foreign_result_are_not_overwritten_either(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(Stop):
        start(plan, stop_at(3))
    plan.result.unlink()
    # What the one refuses must not be what the other advises.
    for attempt in (start, resume):
        with pytest.raises(RefusedError, match=r"cannot be resumed: there is no .*result\.json\. Start anew"):
            attempt(plan)
    shutil.rmtree(plan.checkpoints)
    plan.result.write_text("{}")
    with pytest.raises(RefusedError, match=r"result\.json.*--overwrite"):
        start(plan)
    with pytest.raises(RefusedError, match=r"result\.json.*--overwrite"):
        resume(plan)


def test_the_wall_time_is_kept_through_stops_and_leaves_out_the_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("synaptic_intelligence.experiments.runner.time.monotonic", lambda: now)
    heard: list[Message] = []

    def listen(message: Message) -> None:
        heard.append(message)
        if len(heard) == 3:
            raise Stop

    def slow(*words: Any, **more: Any) -> Any:
        nonlocal now
        now += 10
        return train_epoch(*words, **more)

    monkeypatch.setattr("synaptic_intelligence.experiments.job.train_epoch", slow)
    plan = _plan(tmp_path, replace(SETTINGS, seeds=1))
    with pytest.raises(Stop):
        start(plan, listen)
    # Two epochs, the second of which ends the task; stopped before the task was told of.
    assert read_result(plan.result).wall_seconds == 20.0
    now += 1000
    assert resume(plan).wall_seconds == 100.0


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(RefusedError, match=r"holds report\.html already"):
        start(plan)
    (tmp_path / "report.html").unlink()
    plan.checkpoints.mkdir()
    mine = (plan.checkpoints / "mine.pt", tmp_path / ".mine.part")
    for path in mine:
        path.write_text("mine")
    assert start(plan).complete
    assert sorted(tmp_path.rglob("*")) == sorted([plan.result, plan.checkpoints, *mine])


def test_a_run_that_failed_at_once_can_be_started_again(tmp_path: Path, whole: Result) -> None:
    def no_data(data_dir: Path | None, tasks: int) -> Stream:
        raise ValueError("no data here")

    plan = _plan(tmp_path)
    result = start_run(plan, 1, "synaptic run tiny", overwrite=False)
    with pytest.raises(JobError, match="seed 3, first task: ValueError: no data here") as caught:
        run(replace(plan, experiment=replace(TINY, stream=no_data)), result, {}, 1, ignore)
    assert "in no_data" in caught.value.details
    assert numbers(start(plan)) == numbers(whole)


def test_a_result_holds_settings_protocol_deviations_and_where_it_was_made(tmp_path: Path) -> None:
    plan = _plan(tmp_path, replace(SETTINGS, seeds=1, epochs=1, limit=10))
    result = start(plan)
    assert result.settings["c"] == [0.0, 50.0]
    assert result.settings["network"] == "6-16-6"
    assert result.deviations == ["1 epoch instead of 2", "only the first 10 images of each task"]
    assert result.planned_runs == 2
    assert result.environment["torch"] == torch.__version__
    assert result.wall_seconds > 0
    assert str(Path.cwd()) not in plan.result.read_text()
    assert result.settings["tasks"] == 3
    assert result.settings["rivals"] == []
    assert set(asdict(result.runs[0])) == set(Run.__dataclass_fields__)


def test_a_limit_holds_for_the_images_to_train_and_to_test_on(tmp_path: Path) -> None:
    for run_ in start(_plan(tmp_path, replace(SETTINGS, seeds=1, limit=7))).runs:
        shares = [*run_.baseline, *run_.train_accuracy, *run_.final_train_accuracy, *chain(*run_.accuracy)]
        assert {round(7 * share, 9) for share in shares} <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}


def test_fewer_tasks_are_the_first_of_them(tmp_path: Path, whole: Result) -> None:
    result = start(_plan(tmp_path, replace(SETTINGS, tasks=2)))
    assert result.task_names == ["0/1", "2/3"]
    assert result.complete
    assert result.deviations == ["2 tasks instead of 3"]
    assert [run_.accuracy for run_ in result.runs] == [[row[:2] for row in run_.accuracy[:2]] for run_ in whole.runs]


def test_a_single_task_is_learnt_once_for_all_strengths(tmp_path: Path, whole: Result) -> None:
    heard: list[Message] = []
    result = start(_plan(tmp_path, replace(SETTINGS, tasks=1)), heard.append)
    assert result.complete
    assert [run_.accuracy for run_ in result.runs] == [[row[:1] for row in run_.accuracy[:1]] for run_ in whole.runs]
    assert [len(run_.final_train_accuracy) for run_ in result.runs] == [1, 1, 1, 1]
    assert sum(isinstance(message, EpochDone) for message in heard) == 2 * SETTINGS.epochs


def _extend(plan: Plan) -> Result:
    return run(plan, *resume_run(plan, 1, "synaptic run tiny --seeds 2"), 1, ignore)


@pytest.mark.parametrize("fewer", [{"seeds": 1}, {"c": (50.0,)}, {"c": (0.0,), "seeds": 1}])
@pytest.mark.parametrize("complete", [True, False])
def test_an_extended_run_has_the_numbers_of_one_that_was_whole_from_the_start(
    tmp_path: Path, whole: Result, fewer: dict[str, Any], complete: bool
) -> None:
    small = _plan(tmp_path, replace(SETTINGS, **fewer))
    if complete:
        start(small)
    else:
        with pytest.raises(Stop):
            start(small, stop_at(7))
    before = read_result(small.result)
    extended = _extend(_plan(tmp_path))
    assert sorted(map(str, numbers(extended))) == sorted(map(str, numbers(whole)))
    assert extended == read_result(small.result)
    assert (extended.planned_runs, extended.settings["seeds"]) == (4, 2)
    assert (before.command, extended.command) == ("synaptic run tiny", "synaptic run tiny --seeds 2")
    resumed = extended.environment["resumed"]
    assert isinstance(resumed, list)
    assert [sitting["extended"] for sitting in resumed if isinstance(sitting, dict)] == ["synaptic run tiny"]
    assert not (tmp_path / BEFORE).exists()
    if complete:
        kept = {(run.seed, run.c): run for run in extended.runs}
        assert all(kept[run.seed, run.c] == run for run in before.runs)


def test_an_extension_that_fails_leaves_the_run_as_it_was_beside(tmp_path: Path) -> None:
    start(_plan(tmp_path / "run"))
    plan = _plan(tmp_path / "run", replace(SETTINGS, c=(*SETTINGS.c, 1e38)))
    before = read_result(plan.result)
    (plan.out / "report.html").write_text("of the run before")
    with pytest.raises(JobError, match="not finite"):
        _extend(plan)
    assert not (plan.out / "report.html").exists()
    assert not read_result(plan.result).complete
    assert read_result(plan.out / BEFORE) == before
    # A second try does not take the unfinished one for it.
    with pytest.raises(JobError, match="not finite"):
        _extend(replace(plan, settings=replace(plan.settings, c=(*plan.settings.c, 2.0))))
    assert read_result(plan.out / BEFORE) == before
    plan.result.unlink()
    shutil.rmtree(plan.checkpoints)
    with pytest.raises(RefusedError, match=rf"holds {BEFORE} already"):
        start_run(plan, 1, "synaptic run tiny", overwrite=False)
    (plan.out / BEFORE).rename(plan.result)
    assert resume(_plan(tmp_path / "run")) == before


def test_a_rival_can_join_later(tmp_path: Path) -> None:
    experiment = replace(TINY, rivals=("ewc", "joint"), protocol={**TINY.protocol, "ewc": "exact"})
    before = replace(experiment, rivals=(), protocol={**TINY.protocol, "ewc": "otherwise"})
    few, more = SETTINGS, replace(SETTINGS, rivals=("ewc:10", "joint"), fisher_images=8)
    alone = start(replace(_plan(tmp_path), experiment=before))
    plan = replace(_plan(tmp_path, more), experiment=experiment)
    extended = _extend(plan)
    elsewhere = start(replace(plan, out=tmp_path / "elsewhere"))
    assert sorted(map(str, numbers(extended))) == sorted(map(str, numbers(elsewhere)))
    assert alone.runs == [run for run in extended.runs if run.method == "si"]
    assert (extended.settings["ewc"], extended.settings["fisher_images"]) == ("exact", 8)
    # What took part is not described anew, nor left out.
    with pytest.raises(RefusedError, match="ewc was exact and is otherwise"):
        resume_run(replace(plan, experiment=replace(experiment, protocol={**TINY.protocol, "ewc": "otherwise"})), 1, "")
    with pytest.raises(RefusedError, match=r"--rival was ewc:10 joint and is .*--extend adds seeds"):
        resume_run(replace(plan, settings=replace(few, fisher_images=8)), 1, "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 1}, "--seeds was 2 and is 1"),
        ({"c": (0.0,)}, "--c was 0 50 and is 0"),
        ({"first_seed": 2}, "--first-seed was 3 and is 2"),
        ({"lr": 0.5}, "--lr was 0.02 and is 0.5"),
    ],
)
def test_an_extension_changes_and_leaves_out_nothing(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    start(_plan(tmp_path))
    content = _plan(tmp_path).result.read_bytes()
    with pytest.raises(RefusedError, match=f"other settings: {said}"):
        resume_run(_plan(tmp_path, replace(SETTINGS, **change)), 1, "synaptic run tiny")
    assert _plan(tmp_path).result.read_bytes() == content
