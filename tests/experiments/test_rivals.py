"""Every method's run equals an ordinary loop that is written out here, and ends the same wherever it is stopped.

Networks are float64, so that a loop that does the same sums in another order agrees to many digits. The loss of each
epoch, which a run tells of (a sum in float32), shows differences that are too small for accuracies.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY, Stop, blobs, numbers, resume, start, stop_at
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

import synaptic_intelligence as si
from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.job import train_job
from synaptic_intelligence.experiments.method import Method
from synaptic_intelligence.experiments.optimizers import adam
from synaptic_intelligence.experiments.paths import correlation
from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST
from synaptic_intelligence.experiments.plan import EpochDone, Job, Message, Plan
from synaptic_intelligence.result import Result, Run, read_result
from synaptic_intelligence.tasks import Stream, Task, permute_pixels, split_by_class

SEED = 3
SETTINGS = replace(
    TINY.paper,
    seeds=1,
    first_seed=SEED,
    c=(0.5,),
    rivals=("ewc:2", "sgd-dropout", "scratch", "joint"),
    batch_size=16,
    fisher_images=20,
)
SGD_LR = 0.1  # as the experiments' protocol says
Make = Callable[[torch.Generator], nn.Module]


def _filled(model: nn.Module, generator: torch.Generator) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def _linear(inputs: int, outputs: int) -> nn.Module:
    layer: nn.Module = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    return layer


def plain(generator: torch.Generator) -> nn.Module:
    return _filled(nn.Sequential(_linear(6, 12), nn.ReLU(), _linear(12, 6)), generator)


def with_dropout(generator: torch.Generator) -> nn.Module:
    layers = (nn.Dropout(0.1), _linear(6, 12), nn.ReLU(), nn.Dropout(0.3), _linear(12, 6))
    return _filled(nn.Sequential(*layers), generator)


def _data() -> Task:
    data = blobs(240, tested=120)
    return replace(data, train_inputs=data.train_inputs.double(), test_inputs=data.test_inputs.double())


def permuted(data_dir: Path | None = None, tasks: int = 3) -> Stream:
    return permute_pixels(_data(), tasks, seed=1)


def split(data_dir: Path | None = None, tasks: int = 3) -> Stream:
    return split_by_class(_data(), ((0, 1), (2, 3), (4, 5))[:tasks])


KEPT = replace(
    TINY,
    multi_head=False,
    fresh_optimizer=False,
    network=plain,
    stream=permuted,
    rivals=("ewc", "sgd-dropout", "scratch", "joint"),
    dropout_network=with_dropout,
    correlates_paths=True,
)
# Dropout in the network itself, as in the experiments on CIFAR, and in that of the rival another.
FRESH = replace(KEPT, fresh_optimizer=True, network=with_dropout, dropout_network=plain)
# One head for each task, as in split MNIST; the Fisher information of ewc knows of no heads, so it is left out.
HEADS = replace(KEPT, fresh_optimizer=True, multi_head=True, stream=split)

EXPERIMENTS = {"one optimizer": KEPT, "fresh optimizers": FRESH, "heads": HEADS}


def _plan(experiment: Experiment, out: Path) -> Plan:
    rivals = tuple(rival for rival in SETTINGS.rivals if rival != "ewc:2" or not experiment.multi_head)
    return Plan(experiment, replace(SETTINGS, rivals=rivals), "cpu", 1, None, out)


@dataclass(frozen=True)
class Finished:
    """A run in one go: its experiment, its result, and what it told of."""

    experiment: Experiment
    result: Result
    heard: list[Message]

    def run(self, method: str) -> Run:
        (found,) = [run for run in self.result.runs if run.method == method]
        return found

    def losses(self, *jobs: str) -> list[float]:
        """The loss of every epoch of these jobs."""
        return [m.loss for m in self.heard if isinstance(m, EpochDone) and str(m.job).partition(", ")[2] in jobs]


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """A function that gives the run of an experiment, trained once."""

    @functools.cache
    def finished(name: str) -> Finished:
        heard: list[Message] = []
        experiment = EXPERIMENTS[name]
        return Finished(experiment, start(_plan(experiment, tmp_path_factory.mktemp("whole")), heard.append), heard)

    return finished


@pytest.fixture(scope="module", params=EXPERIMENTS)
def done(request: pytest.FixtureRequest, in_one_go: Callable[[str], Finished]) -> Finished:
    return in_one_go(request.param)


@dataclass
class Loop:
    """An ordinary training loop, with nothing of the library in it but the stream."""

    experiment: Experiment
    make: Make
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(2 * SEED))
    order: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(2 * SEED + 1))
    losses: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.make(self.generator)
        self.stream = self.experiment.stream(None, 3)
        self.baseline = self.test()
        # What dropout draws from.
        torch.manual_seed(2**31 + SEED)

    def logits(self, x: Tensor, task: Task) -> Tensor:
        logits: Tensor = self.model(x)
        if self.experiment.multi_head:
            others = [label for label in range(6) if label not in task.classes]
            logits = logits.index_fill(1, torch.tensor(others, dtype=torch.int64), -torch.inf)
        return logits

    def adam(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=SETTINGS.lr)

    def learn(
        self, task: Task, optimizer: torch.optim.Optimizer, penalty: Callable[[], Tensor | float] = lambda: 0.0
    ) -> None:
        """Train for two epochs; the losses that are noted are without the penalty."""
        for _ in range(SETTINGS.epochs):
            loss_sum, right = 0.0, 0
            self.model.train()
            for batch in torch.randperm(len(task.train_targets), generator=self.order).split(SETTINGS.batch_size):
                x, y = task.train_inputs[batch], task.train_targets[batch]
                logits = self.logits(x, task)
                loss = cross_entropy(logits, y)
                optimizer.zero_grad()
                (loss + penalty()).backward()
                optimizer.step()
                loss_sum += float(loss.detach()) * len(y)
                right += int((logits.argmax(1) == y).sum())
            self.losses.append(loss_sum / len(task.train_targets))
        self.train_accuracy.append(right / len(task.train_targets))

    @torch.no_grad()
    def share_right(self, task: Task, x: Tensor, y: Tensor) -> float:
        self.model.eval()
        return int((self.logits(x, task).argmax(1) == y).sum()) / len(y)

    def test(self) -> list[float]:
        return [self.share_right(task, task.test_inputs, task.test_targets) for task in self.stream]

    def test_on_training_data(self) -> list[float]:
        return [self.share_right(task, task.train_inputs, task.train_targets) for task in self.stream]


def _assert_same_losses(found: list[float], expected: list[float], precision: float = 1e-6) -> None:
    assert len(found) == len(expected)
    assert found == pytest.approx(expected, rel=precision)


def _assert_same(run: Run, loop: Loop, rows: list[list[float]], final_train: list[float]) -> None:
    assert run.baseline == loop.baseline
    assert run.accuracy == rows
    assert run.train_accuracy == loop.train_accuracy
    assert run.final_train_accuracy == final_train
    assert len(run.task_seconds) == len(rows)
    assert all(seconds > 0 for seconds in run.task_seconds)


@pytest.fixture(scope="module")
def by_synapses(done: Finished) -> tuple[Loop, list[list[float]], list[Mapping[str, Tensor]]]:
    """The run of synaptic intelligence: the ordinary loop, its rows, and the path integral of each task."""
    with torch.random.fork_rng():
        loop = Loop(done.experiment, done.experiment.network)
        optimizer = loop.adam()
        synapses = si.SynapticIntelligence(loop.model.named_parameters(), optimizer, c=0.5, xi=SETTINGS.xi)
        rows, paths = [], []
        for number, task in enumerate(loop.stream):
            if number and done.experiment.fresh_optimizer:
                optimizer = loop.adam()
                synapses.attach(optimizer)
            loop.learn(task, optimizer)
            paths.append(synapses.consolidate())
            rows.append(loop.test())
    return loop, rows, paths


def test_synapses_equal_an_ordinary_loop(
    done: Finished, by_synapses: tuple[Loop, list[list[float]], list[Mapping[str, Tensor]]]
) -> None:
    loop, rows, _ = by_synapses
    _assert_same_losses(done.losses("first task", "c = 0.5"), loop.losses)
    _assert_same(done.run("si"), loop, rows, loop.test_on_training_data())


def test_path_correlations_are_those_of_numpy(
    done: Finished, by_synapses: tuple[Loop, list[list[float]], list[Mapping[str, Tensor]]]
) -> None:
    loop, _, paths = by_synapses
    matrices = [name for name, parameter in loop.model.named_parameters() if parameter.ndim == 2]
    found = done.run("si").path_correlation
    assert list(found) == matrices
    assert len(matrices) == 2
    for name in matrices:
        expected = np.corrcoef(np.stack([path[name].numpy().ravel() for path in paths]))
        assert [len(row) for row in found[name]] == [1, 2, 3]
        for i, row in enumerate(found[name]):
            assert row == pytest.approx(expected[i, : i + 1], rel=0, abs=1e-7)
        # Neither alike nor the same for every pair.
        assert len({round(value, 3) for row in found[name] for value in row[:-1]}) == 3
    assert all(run.path_correlation == {} for run in done.result.runs if run.method != "si")


def test_the_optimizer_is_kept_or_fresh_as_the_experiment_says(tmp_path: Path, done: Finished) -> None:
    other: list[Message] = []
    experiment = replace(done.experiment, fresh_optimizer=not done.experiment.fresh_optimizer)
    start(replace(_plan(experiment, tmp_path), settings=replace(SETTINGS, rivals=())), other.append)
    with_other = Finished(experiment, done.result, other)
    assert with_other.losses("first task") == done.losses("first task")
    assert abs(with_other.losses("c = 0.5")[0] - done.losses("c = 0.5")[0]) > 1e-3


def _fisher(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of the model's own labels, one sample and one label at a time."""
    model.eval()
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for image in images:
        log_p = log_softmax(model(image[None])[0], dim=0)
        for label in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[label], list(model.parameters()), retain_graph=True)
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += log_p[label].exp().detach() * gradient.square() / len(images)
    return total


@pytest.mark.parametrize("done", ["one optimizer", "fresh optimizers"], indirect=True)
def test_ewc_equals_a_loop_with_the_penalty_in_the_loss(done: Finished) -> None:
    loop = Loop(done.experiment, done.experiment.network)
    parameters, optimizer = dict(loop.model.named_parameters()), loop.adam()
    information: dict[str, Tensor] = {}
    anchor: dict[str, Tensor] = {}

    def penalty() -> Tensor | float:
        return 2.0 * sum((information[n] * (parameters[n] - anchor[n]).square()).sum() for n in information)

    rows = []
    for number, task in enumerate(loop.stream):
        if number and done.experiment.fresh_optimizer:
            optimizer = loop.adam()
        loop.learn(task, optimizer, penalty)
        found = _fisher(loop.model, task.train_inputs[: SETTINGS.fisher_images])
        information = {name: found[name] + information.get(name, 0.0) for name in found}
        anchor = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        rows.append(loop.test())
    _assert_same_losses(done.losses("first task", "ewc, c = 2"), loop.losses)
    _assert_same(done.run("ewc"), loop, rows, loop.test_on_training_data())


def test_plain_sgd_with_dropout_equals_an_ordinary_loop(done: Finished) -> None:
    make = done.experiment.dropout_network
    assert make is not None
    loop = Loop(done.experiment, make)
    rows = []
    for task in loop.stream:
        loop.learn(task, torch.optim.SGD(loop.model.parameters(), lr=SGD_LR))
        rows.append(loop.test())
    _assert_same_losses(done.losses("sgd-dropout"), loop.losses)
    _assert_same(done.run("sgd-dropout"), loop, rows, loop.test_on_training_data())


def _from_scratch(done: Finished) -> tuple[Loop, list[list[float]], list[float]]:
    """A network for each task: the loop, the accuracies of each on all tasks, and of each on its training data."""
    loop = Loop(done.experiment, done.experiment.network)
    of_network, final_train = [], []
    for number, task in enumerate(loop.stream):
        if number:
            loop.model = loop.make(loop.generator)
        loop.learn(task, loop.adam())
        of_network.append(loop.test())
        final_train.append(loop.test_on_training_data()[number])
    return loop, of_network, final_train


def test_from_scratch_equals_networks_that_are_trained_one_by_one(done: Finished) -> None:
    """Of each task that is learnt the accuracy of its own network, and of those that come that of an untrained one."""
    loop, of_network, final_train = _from_scratch(done)
    run = done.run("scratch")
    expected = [[of_network[j][j] if j <= stage else loop.baseline[j] for j in range(3)] for stage in range(3)]
    # What the first network makes of later tasks has a test of its own.
    _assert_same_losses(done.losses("first task", "scratch"), loop.losses)
    _assert_same(run, loop, [[expected[0][0], *run.accuracy[0][1:]], *expected[1:]], final_train)


def test_from_scratch_the_later_tasks_are_untouched_by_the_first_too(done: Finished) -> None:
    run = done.run("scratch")
    assert run.accuracy[0][1:] == run.baseline[1:]


def test_all_at_once_equals_a_loop_over_all_examples(done: Finished) -> None:
    loop = Loop(done.experiment, done.experiment.network)
    inputs = torch.cat([task.train_inputs for task in loop.stream])
    targets = torch.cat([task.train_targets for task in loop.stream])
    classes = tuple(range(6))
    loop.learn(Task("all", inputs, targets, inputs, targets, classes), loop.adam())
    _assert_same_losses(done.losses("joint"), loop.losses)
    _assert_same(done.run("joint"), loop, [loop.test()], loop.test_on_training_data())


def test_the_first_task_is_trained_once_and_shared(done: Finished) -> None:
    first = Job(SEED, None)
    shared = [run for run in done.result.runs if run.method in ("si", "ewc", "scratch")]
    assert sum(isinstance(m, EpochDone) and m.job == first for m in done.heard) == SETTINGS.epochs
    assert len(shared) == (2 if done.experiment.multi_head else 3)
    for run in shared:
        assert run.task_seconds[0] == shared[0].task_seconds[0]
        assert run.train_accuracy[0] == shared[0].train_accuracy[0]
        assert run.accuracy[0][0] == shared[0].accuracy[0][0]
    # The others have a first task of their own.
    assert {m.task for m in done.heard if isinstance(m, EpochDone) and str(m.job).endswith("sgd-dropout")} == {0, 1, 2}
    # Two epochs of: the first task, two tasks for each that shares it, three for dropout, one for all at once.
    epochs = sum(isinstance(m, EpochDone) for m in done.heard)
    assert epochs == SETTINGS.epochs * (1 + 2 * len(shared) + 3 + 1)


def test_nothing_is_left_of_the_compared_paths(done: Finished, tmp_path: Path) -> None:
    plan = replace(_plan(done.experiment, tmp_path), settings=replace(SETTINGS, rivals=(), epochs=1))
    start(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_rival_shows_no_paths_at_any_time(tmp_path: Path) -> None:
    plan, seen = replace(_plan(KEPT, tmp_path), settings=replace(SETTINGS, rivals=("ewc:2",), epochs=1)), list[Run]()
    start(plan, lambda message: seen.extend(read_result(plan.result).runs))
    assert [run.path_correlation for run in seen if run.method != "si" and run.path_correlation] == []


def test_correlation_of_a_constant_is_zero_and_of_the_same_one() -> None:
    values = torch.tensor([[1e-20, 2e-20], [4e-20, -1e-20]])
    assert correlation(values, torch.ones(2, 2)) == 0.0
    assert correlation(values, values) == pytest.approx(1.0, abs=1e-12)
    assert correlation(values, -3 * values) == pytest.approx(-1.0, abs=1e-12)
    # Of a mean a million times the spread little is left in float32.
    wide = torch.tensor([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3])
    other = torch.tensor([0.0, 1.0, 1.0, 0.5])
    assert correlation(wide, other) == pytest.approx(np.corrcoef(wide.double(), other.double())[0, 1], abs=1e-12)


# The messages of a job: its start, then for each task two epochs and the task. Stops after every second message come
# after each epoch; after every fourth, at the end of a task; others fall between, and at the start of a job.
@pytest.mark.parametrize("every", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["one optimizer", "fresh optimizers"])
def test_stopped_again_and_again_it_ends_with_the_same_numbers(
    tmp_path: Path,
    name: str,
    every: int,
    in_one_go: Callable[[str], Finished],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the machine does not fail here, and the disk is slow
    whole, plan = in_one_go(name), _plan(EXPERIMENTS[name], tmp_path)
    heard: list[Message] = []
    go, stops, result = start, 0, None
    while result is None:
        sitting: list[Message] = []
        try:
            result = go(plan, stop_at(every, sitting))
        except Stop:
            stops += 1
        heard += sitting
        go = resume
    assert numbers(result) == numbers(whole.result)
    # Each epoch is trained once, with the same loss to the last bit.
    assert _epochs(heard) == _epochs(whole.heard)
    assert stops >= len(_epochs(heard)) // every
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def _epochs(heard: list[Message]) -> list[tuple[str, int, int, float, float]]:
    return [(str(m.job), m.task, m.epoch, m.loss, m.accuracy) for m in heard if isinstance(m, EpochDone)]


@pytest.mark.parametrize("method", [Method("joint"), Method("sgd-dropout"), Method("si", 0.0)])
def test_a_loss_that_is_not_finite_ends_the_job_and_is_no_result(tmp_path: Path, method: Method) -> None:
    plan = replace(_plan(KEPT, tmp_path), settings=replace(SETTINGS, lr=1e300, epochs=3))
    plan.checkpoints.mkdir(parents=True)
    job = Job(0, method if method.name != "si" else None)
    # SGD of a rival has a rate of its own; inputs beyond all measure make it diverge too.
    stream = [replace(task, train_inputs=task.train_inputs * 1e300) for task in permuted()]
    with pytest.raises(si.SynapseError, match="the loss of task 1 is not finite"):
        train_job(plan, job, stream, lambda message: None)


def test_ewc_has_the_strength_that_the_committed_search_found() -> None:
    """The smallest that lies within 0.001 of the best: what the page says of it."""
    searches = sorted((Path(__file__).parents[2] / "results").glob("permuted-mnist-search*.json"))
    every = [run for search in searches for run in read_result(search).complete_runs]
    found = {run.c: fmean(run.accuracy[-1]) for run in every if run.method == "ewc" and run.c is not None}
    assert len(found) == 7
    best = max(found.values())
    (ewc,) = (method.c for method in PERMUTED_MNIST.paper.methods if method.name == "ewc")
    assert ewc == min(c for c, reached in found.items() if reached >= best - 0.001)
    synapses = {run.c: fmean(run.accuracy[-1]) for run in every if run.method == "si" and run.c is not None}
    # What the page says of the two.
    assert best - 0.01 < max(synapses.values()) < best
    assert max(synapses, key=lambda c: synapses[c]) >= 1.0
    assert synapses[0.1] < max(synapses.values()) - 0.01


def test_from_scratch_adam_begins_anew_where_others_count_on(tmp_path: Path) -> None:
    """And EWC counts on as synapses do."""
    settings = replace(SETTINGS, c=(0.0,), rivals=("scratch", "ewc:10"), epochs=2)
    counts: dict[str, list[float]] = {}

    def noted(parameters: Any, *, lr: float, steps_before: int = 0) -> torch.optim.Adam:
        counts.setdefault(current[-1], []).append(steps_before)
        return adam(parameters, lr=lr, steps_before=steps_before)

    current = [""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synaptic_intelligence.experiments.job.adam", noted)
        for keep in (True, False):
            plan = replace(_plan(FRESH, tmp_path / str(keep)), settings=replace(settings, keep_step_count=keep))
            plan.checkpoints.mkdir(parents=True)
            for job in plan.jobs:
                if job.seed == settings.first_seed:
                    current.append(f"{keep} {job.method.name if job.method else 'first'}")
                    train_job(plan, job, plan.load(), lambda message: None)
    assert all(not any(steps) for name, steps in counts.items() if name.startswith("False") or "scratch" in name)
    later = [n for n in counts["True ewc"] if n]
    assert later == [n for n in counts["True si"] if n] == sorted(later)
    assert later
