"""Replicates: stacked networks learn what each would learn by itself, and leave the checkpoints that it would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from oracle import assert_close, relative_difference
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.errors import SynapseError, SynapseWarning
from synaptic_intelligence.experiments import EXPERIMENTS, replicates
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.folder import start_run
from synaptic_intelligence.experiments.plan import Message, Plan
from synaptic_intelligence.experiments.replicates import (
    Stack,
    evaluate_at_once,
    is_stackable,
    train_epoch_at_once,
    train_replicates,
)
from synaptic_intelligence.result import Result
from synaptic_intelligence.tasks import Stream, Task
from synaptic_intelligence.train import evaluate, train_epoch


def network(generator: torch.Generator) -> nn.Module:
    return tiny.network(generator).double()


def stream(data_dir: Path | None = None, tasks: int = 3) -> Stream:
    return tuple(
        replace(task, train_inputs=task.train_inputs.double(), test_inputs=task.test_inputs.double())
        for task in tiny.stream(data_dir, tasks)
    )


EXACT = replace(tiny.TINY, network=network, stream=stream)
SETTINGS = replace(tiny.SETTINGS, c=(0.0, 0.1, 1.0))


def plan(out: Path, experiment: Experiment = EXACT) -> Plan:
    return Plan(experiment, SETTINGS, device="cpu", threads=1, data_dir=None, out=out)


@pytest.mark.parametrize("fresh_optimizer", [True, False])
@pytest.mark.parametrize("multi_head", [True, False])
def test_a_stack_learns_what_separate_networks_learn(fresh_optimizer: bool, multi_head: bool) -> None:
    """Three tasks, 216 steps, in float64: weights, omega, path, losses and accuracies."""
    tasks, epochs = stream(), 9
    runs = [(seed, c) for seed in (3, 4) for c in (0.0, 0.1, 1.0)]

    def networks() -> list[nn.Module]:
        return [network(torch.Generator().manual_seed(2 * seed)) for seed, _ in runs]

    def orders() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(2 * seed + 1) for seed, _ in runs]

    stack, generators = Stack(networks()), orders()
    optimizer = torch.optim.Adam(stack.parameters.values(), lr=0.02, fused=True)
    c = torch.tensor([c for _, c in runs], dtype=torch.float64)
    together = si.SynapticIntelligence(stack.parameters.items(), optimizer, c=c, xi=1e-3)
    measured = []
    for number, task in enumerate(tasks):
        if number and fresh_optimizer:
            optimizer = torch.optim.Adam(stack.parameters.values(), lr=0.02, fused=True)
            together.attach(optimizer)
        for _ in range(epochs):
            done = train_epoch_at_once(
                stack, optimizer, task, batch_size=8, generators=generators, multi_head=multi_head
            )
            measured.append([(epoch.loss, epoch.accuracy) for epoch in done])
        if number < 2:
            together.consolidate()
    assert together.state_dict()["steps"] + 2 * 9 * 8 == 216

    for i, (model, order) in enumerate(zip(networks(), orders(), strict=True)):
        own = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
        alone = si.SynapticIntelligence(model.named_parameters(), own, c=runs[i][1], xi=1e-3)
        row = 0
        for number, task in enumerate(tasks):
            if number and fresh_optimizer:
                own = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
                alone.attach(own)
            for _ in range(epochs):
                epoch = train_epoch(model, own, task, batch_size=8, generator=order, multi_head=multi_head)
                loss, accuracy = measured[row][i]
                assert loss == pytest.approx(epoch.loss, rel=1e-6)  # summed in float32
                assert accuracy == epoch.accuracy
                row += 1
            if number < 2:
                alone.consolidate()
        assert_close([(n, p[i]) for n, p in stack.parameters.items()], dict(model.named_parameters()), 1e-9)
        assert_close([(n, t[i]) for n, t in together.omega.items()], dict(alone.omega), 1e-9)
        assert_close([(n, t[i]) for n, t in together.path.items()], dict(alone.path), 1e-9)
        for task in tasks:
            accuracy = evaluate_at_once(stack, task, multi_head=multi_head)[i]
            assert accuracy == evaluate(model, task, multi_head=multi_head)
    # The strengths and seeds make a difference that is not lost in rounding.
    weights = stack.parameters["0.weight"].detach()
    assert all(relative_difference(weights[i], weights[j]) > 1e-3 for i in range(6) for j in range(i))


def by_replicates(plan: Plan, monkeypatch: pytest.MonkeyPatch, listen: Callable[[Message], None]) -> Result:
    """Start a run as on a GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(replicates, "pay", lambda plan: True)
        return tiny.start(plan, listen)


@pytest.mark.parametrize(
    "experiment",
    [EXACT, replace(EXACT, fresh_optimizer=False, correlates_paths=True)],
    ids=["fresh-optimizer", "one-optimizer-and-paths"],
)
def test_the_runner_gets_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment
) -> None:
    heard: list[Message] = []
    expected_messages: list[Message] = []
    expected = tiny.start(plan(tmp_path / "jobs", experiment), expected_messages.append)
    found = by_replicates(plan(tmp_path / "replicates", experiment), monkeypatch, heard.append)
    assert found.complete
    assert (found.environment.get("at_once"), expected.environment.get("at_once")) == (True, None)
    assert _without_paths(found) == _without_paths(expected)
    _assert_paths_agree(found, expected)
    assert sorted(map(_kind, heard)) == sorted(map(_kind, expected_messages))
    assert not (tmp_path / "replicates" / "checkpoints").exists()


def test_the_runner_gets_the_same_result_with_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, together = (plan(tmp_path / name) for name in ("jobs", "replicates"))
    settings = replace(jobs.settings, keep_step_count=True, coarse_omega=True)
    expected = tiny.start(replace(jobs, settings=settings))
    found = by_replicates(replace(together, settings=settings), monkeypatch, tiny.ignore)
    assert _without_paths(found) == _without_paths(expected) != _without_paths(tiny.start(plan(tmp_path / "fresh")))


@pytest.mark.parametrize("fresh_optimizer", [True, False])
def test_a_run_that_was_stopped_goes_on_job_by_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_optimizer: bool
) -> None:
    """In the first task, while it is told, at the start of the second, in its midst, while it is told, in the last."""
    experiment = replace(EXACT, fresh_optimizer=fresh_optimizer, correlates_paths=True)
    expected = tiny.start(plan(tmp_path / "whole", experiment))
    for message_number in (4, 7, 12, 18, 29, 40):
        stopped = plan(tmp_path / str(message_number), experiment)
        with pytest.raises(tiny.Stop):
            by_replicates(stopped, monkeypatch, tiny.stop_at(message_number))
        found = tiny.resume(stopped)
        assert _without_paths(found) == _without_paths(expected)
        _assert_paths_agree(found, expected)


def test_a_rival_goes_on_from_the_shared_first_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = replace(SETTINGS, rivals=("ewc:10", "scratch", "joint"), fisher_images=50)
    experiment = replace(EXACT, rivals=("ewc", "scratch", "joint"))
    jobs, together = (replace(plan(tmp_path / name, experiment), settings=rivals) for name in ("jobs", "replicates"))
    expected = tiny.start(jobs)
    found = by_replicates(together, monkeypatch, tiny.ignore)
    assert sorted(map(str, tiny.numbers(found))) == sorted(map(str, tiny.numbers(expected)))


def test_where_one_diverges_the_others_go_on_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(*args: object, **options: object) -> list[object]:
        calls.append(args)
        if len(calls) == 4:
            raise SynapseError("made up")
        return original(*args, **options)  # type: ignore[arg-type, return-value]

    original = train_epoch_at_once
    expected = tiny.start(plan(tmp_path / "jobs"))
    monkeypatch.setattr(replicates, "train_epoch_at_once", train)
    with pytest.warns(SynapseWarning, match=r"go on one by one from their last task: made up$"):
        found = by_replicates(plan(tmp_path / "replicates"), monkeypatch, tiny.ignore)
    assert tiny.numbers(found) == tiny.numbers(expected)


def test_a_loss_that_is_not_finite_names_the_job(tmp_path: Path) -> None:
    broken = plan(tmp_path / "run")
    broken = replace(broken, settings=replace(SETTINGS, lr=1e300))
    start_run(broken, 1, "synaptic run tiny", overwrite=False)
    with pytest.raises(SynapseError, match=r"^seed 3, c = 0: the loss of task 1 is not finite in epoch 1$"):
        train_replicates(broken, broken.load(), tiny.ignore)


# What can be stacked.


def test_the_experiments_with_perceptrons_can_be_stacked() -> None:
    stackable = {name for name, each in EXPERIMENTS.items() if is_stackable(each.network(torch.Generator()))}
    assert {"split-mnist", "permuted-mnist"} <= stackable
    assert not stackable & {"split-cifar", "split-cifar10-halves", "split-cifar10"}
    dropout = EXPERIMENTS["permuted-mnist"].dropout_network
    assert dropout is not None
    assert not is_stackable(dropout(torch.Generator()))


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2, bias=False)),
        nn.Sequential(nn.Conv1d(2, 2, 1)),
    ],
    ids=str,
)
def test_other_networks_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="only networks of linear layers with ReLU between them can be stacked"):
        Stack([model, model])


def test_networks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        Stack([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))])


def test_experiments_of_other_networks_are_refused(tmp_path: Path) -> None:
    cifar = EXPERIMENTS["split-cifar"]
    images, labels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1])
    tasks = (Task("a", images, labels, images, labels, classes=(0, 1)),)
    with pytest.raises(ValueError, match="only networks of linear layers"):
        train_replicates(Plan(cifar, cifar.quick, "cpu", 1, None, tmp_path), tasks, tiny.ignore)


def test_replicates_are_for_several_runs_of_such_networks_on_a_gpu(tmp_path: Path) -> None:
    on_cpu = plan(tmp_path, tiny.TINY)
    on_gpu = replace(on_cpu, device="cuda")
    assert replicates.pay(on_gpu)
    assert not replicates.pay(on_cpu)
    assert not replicates.pay(replace(on_gpu, settings=replace(SETTINGS, seeds=1, c=(0.1,))))
    assert not replicates.pay(replace(on_gpu, experiment=EXPERIMENTS["split-cifar"]))


def _kind(message: Message) -> tuple[str, str, int, int]:
    return type(message).__name__, str(message.job), message.task, getattr(message, "epoch", -1)


def _without_paths(result: Result) -> list[object]:
    return tiny.numbers(replace(result, runs=[replace(each, path_correlation={}) for each in result.runs]))


def _assert_paths_agree(found: Result, expected: Result) -> None:
    for run_, other in zip(found.runs, expected.runs, strict=True):
        assert list(run_.path_correlation) == list(other.path_correlation)
        for name, rows in run_.path_correlation.items():
            assert_close([(name, _triangle(rows))], {name: _triangle(other.path_correlation[name])}, 1e-9)


def _triangle(rows: list[list[float]]) -> Tensor:
    return torch.tensor([number for row in rows for number in row], dtype=torch.float64)
