"""Networks, streams and settings of permuted MNIST and of both experiments on CIFAR are those of the paper."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tiny import Stop, numbers, resume, start, stop_at
from torch import Tensor, nn

from synaptic_intelligence.data import DataError
from synaptic_intelligence.experiments import (
    EXPERIMENTS,
    Experiment,
    permuted_mnist,
    split_cifar,
    split_cifar10,
    split_cifar10_halves,
)
from synaptic_intelligence.experiments.networks import convolutional_network, multilayer_perceptron
from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST
from synaptic_intelligence.experiments.plan import EpochDone, Message, Plan
from synaptic_intelligence.experiments.settings import Settings, deviations
from synaptic_intelligence.experiments.split_cifar import SPLIT_CIFAR
from synaptic_intelligence.experiments.split_cifar10 import SPLIT_CIFAR10
from synaptic_intelligence.experiments.split_cifar10_halves import SPLIT_CIFAR10_HALVES
from synaptic_intelligence.paper.targets import TARGETS
from synaptic_intelligence.result import read_result
from synaptic_intelligence.tasks import Task

ALL = (PERMUTED_MNIST, SPLIT_CIFAR, SPLIT_CIFAR10_HALVES, SPLIT_CIFAR10)


def made(make: Callable[[torch.Generator], nn.Module], seed: int = 0) -> nn.Module:
    return make(torch.Generator().manual_seed(seed))


def labelled(count: int, classes: int, *pixels: int) -> Task:
    """A data set in which every pixel of an image says its label and its number, as label + 100 * (number % 2)."""

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        values = (labels + 100 * (torch.arange(count) // classes % 2)).to(torch.uint8)
        return values.view(-1, *[1] * len(pixels)).expand(count, *pixels).contiguous(), labels

    return Task("data", *part(count), *part(count // 2), classes=tuple(range(classes)))


# Settings.


def test_the_defaults_are_the_papers() -> None:
    assert PERMUTED_MNIST.paper == Settings(
        seeds=5,
        first_seed=0,
        c=(0.0, 0.01, 0.02, 0.1),
        xi=0.1,
        epochs=20,
        batch_size=256,
        lr=1e-3,
        tasks=10,
        limit=None,
        rivals=PERMUTED_MNIST.paper.rivals,
        fisher_images=1024,
    )
    assert [rival.partition(":")[0] for rival in PERMUTED_MNIST.paper.rivals] == ["ewc", "sgd-dropout", "joint"]
    assert SPLIT_CIFAR.paper == Settings(
        seeds=5,
        first_seed=0,
        c=(0.0, 0.01, 0.1),
        xi=1e-3,
        epochs=60,
        batch_size=256,
        lr=1e-3,
        tasks=6,
        limit=None,
        rivals=("scratch",),
    )
    assert SPLIT_CIFAR10.paper == Settings(
        seeds=5, first_seed=0, c=(0.0, 0.1), xi=1e-3, epochs=60, batch_size=256, lr=1e-3, tasks=5, limit=None, rivals=()
    )
    # Two tasks of 60 epochs, ten repetitions; c is not told but that it is above zero.
    assert SPLIT_CIFAR10_HALVES.paper == replace(SPLIT_CIFAR10.paper, seeds=10, tasks=2)


@pytest.mark.parametrize(
    ("experiment", "multi_head", "fresh_optimizer", "chance", "most_tasks"),
    [
        (PERMUTED_MNIST, False, False, 0.1, None),
        (SPLIT_CIFAR, True, True, 0.1, 6),
        (SPLIT_CIFAR10_HALVES, True, True, 0.2, 2),
        (SPLIT_CIFAR10, True, True, 0.5, 5),
    ],
)
def test_heads_optimizers_and_chance_are_the_papers(
    experiment: Experiment, multi_head: bool, fresh_optimizer: bool, chance: float, most_tasks: int | None
) -> None:
    assert EXPERIMENTS[experiment.name] is experiment
    assert (experiment.multi_head, experiment.fresh_optimizer) == (multi_head, fresh_optimizer)
    assert (experiment.chance, experiment.most_tasks) == (chance, most_tasks)
    words = "fresh for each task" if fresh_optimizer else "one for all tasks"
    assert experiment.protocol["optimizer"] == f"Adam, {words}"


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_a_quick_look_is_never_the_protocol(experiment: Experiment) -> None:
    assert deviations(experiment.quick, experiment.paper) != []
    assert experiment.quick.tasks >= 2


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_an_experiment_has_what_its_rivals_need_and_travels_to_workers(experiment: Experiment, tmp_path: Path) -> None:
    methods = {m.name for m in (*experiment.paper.methods, *experiment.quick.methods) if m.name != "si"}
    assert methods <= set(experiment.rivals)
    assert "sgd-dropout" not in experiment.rivals or experiment.dropout_network is not None
    # The Fisher information of ewc knows of no heads.
    assert not (experiment.multi_head and "ewc" in experiment.rivals)
    assert experiment.most_tasks is None or experiment.paper.tasks <= experiment.most_tasks
    plan = Plan(experiment, experiment.paper, "cpu", 1, None, tmp_path)
    assert pickle.loads(pickle.dumps(plan)) == plan


# Networks.


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def _assert_glorot(weight: Tensor) -> None:
    """Uniform between minus and plus sqrt(6 / (fan in + fan out)), each fan times the size of the receptive field."""
    field = math.prod(weight.shape[2:])
    bound = math.sqrt(6 / (field * (weight.shape[0] + weight.shape[1])))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    # The standard error of an estimate of the deviation of n uniform numbers is sqrt(0.2 / n) of it.
    assert math.isclose(weight.std().item(), bound / math.sqrt(3), rel_tol=5 * math.sqrt(0.2 / weight.numel()))
    assert abs(weight.mean().item()) < 5 * bound / math.sqrt(3 * weight.numel())


def test_permuted_mnist_has_2000_units_in_each_of_two_layers() -> None:
    model = made(PERMUTED_MNIST.network)
    assert [type(layer) for layer in model.children()] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(weight.shape) for weight in _weights(model)] == [(2000, 784), (2000, 2000), (10, 2000)]
    assert sum(p.numel() for p in model.parameters()) == 785 * 2000 + 2001 * 2000 + 2001 * 10
    # The output layer too, unlike in the experiments with heads.
    for weight in _weights(model):
        _assert_glorot(weight)
    assert not any(p.any() for p in model.parameters() if p.ndim == 1)


def test_the_network_of_plain_sgd_is_the_same_with_dropout() -> None:
    assert PERMUTED_MNIST.dropout_network is not None
    model, dropping = made(PERMUTED_MNIST.network), made(PERMUTED_MNIST.dropout_network)
    layers = list(dropping.children())
    kinds = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    for ours, theirs in zip(model.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("experiment", "outputs", "parameters"), [(SPLIT_CIFAR, 60, 1_276_508), (SPLIT_CIFAR10, 10, 1_250_858)]
)
def test_cifar_has_four_convolutions_and_a_layer_of_512(experiment: Experiment, outputs: int, parameters: int) -> None:
    model = made(experiment.network)
    assert [tuple(weight.shape) for weight in _weights(model)] == [
        (32, 3, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
        (512, 2304),
        (outputs, 512),
    ]
    assert sum(p.numel() for p in model.parameters()) == parameters
    block = [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Dropout]
    kinds = [*block, *block, nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in model.children()] == kinds
    assert [layer.p for layer in model.children() if isinstance(layer, nn.Dropout)] == [0.25, 0.25, 0.5]
    # The first of each pair is padded: 32 -> 32 -> 30 -> 15 -> 15 -> 13 -> 6 pixels.
    x, widths = torch.rand(2, 3, 32, 32), []
    for layer in model.children():
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            widths.append(x.shape[-1])
    assert widths == [32, 30, 15, 15, 13, 6]
    assert x.shape == (2, outputs)


@pytest.mark.parametrize("experiment", [SPLIT_CIFAR, SPLIT_CIFAR10])
def test_cifar_starts_glorot_uniform_with_an_output_of_zero(experiment: Experiment) -> None:
    model = made(experiment.network)
    *hidden, output = _weights(model)
    for weight in hidden:
        _assert_glorot(weight)
    assert not output.any()
    assert not any(p.any() for p in model.parameters() if p.ndim == 1)
    assert not model(torch.rand(2, 3, 32, 32)).any()


def test_the_layout_in_memory_changes_no_number() -> None:
    model = made(SPLIT_CIFAR.network)
    nn.init.normal_(_weights(model)[-1], std=0.1)
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in _weights(model) if w.ndim == 4)
    plain = made(SPLIT_CIFAR.network, seed=1)
    plain.load_state_dict(model.state_dict())
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
    assert not all(w.is_contiguous(memory_format=torch.channels_last) for w in _weights(plain) if w.ndim == 4)
    x = torch.rand(4, 3, 32, 32)
    ours, theirs = model.eval()(x), plain.eval()(x)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5


@pytest.mark.parametrize("experiment", ALL, ids=lambda experiment: experiment.name)
def test_the_weights_come_from_the_generator_alone(experiment: Experiment) -> None:
    makers = [make for make in (experiment.network, experiment.dropout_network) if make is not None]
    before = torch.random.get_rng_state()
    for make in makers:
        first, again, other = (_weights(made(make, seed))[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        # Another network from the same generator is another one, as the rival `scratch` needs it.
        generator = torch.Generator().manual_seed(0)
        one, two = _weights(make(generator))[0], _weights(make(generator))[0]
        assert torch.equal(one, first)
        assert not torch.equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_networks_take_what_they_are_asked_for() -> None:
    model = multilayer_perceptron((5, 4, 3, 2), torch.Generator().manual_seed(0), zero_output=True, dropout=0.3)
    assert [type(layer).__name__ for layer in model.children()] == [
        *("Linear", "ReLU", "Dropout"),
        *("Linear", "ReLU", "Dropout"),
        "Linear",
    ]
    assert convolutional_network(7, torch.Generator()).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 7)


# Streams.


def test_permuted_tasks_are_the_same_for_every_seed_and_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path | None] = []
    inputs = torch.randint(256, (6, 784), dtype=torch.uint8)
    data = Task("MNIST", inputs, torch.arange(6), inputs.flip(0), torch.arange(6), classes=tuple(range(10)))

    def load(data_dir: Path | None) -> Task:
        asked.append(data_dir)
        return data

    monkeypatch.setattr(permuted_mnist, "load_mnist", load)
    before = torch.random.get_rng_state()
    few, many = PERMUTED_MNIST.stream(None, 3), PERMUTED_MNIST.stream(Path("here"), 12)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert asked == [None, Path("here")]
    assert (len(few), len(many)) == (3, 12)
    # One generator, one randperm for each task, the first of them unused.
    generator = torch.Generator().manual_seed(2017)
    orders = [torch.randperm(784, generator=generator) for _ in range(12)]
    orders[0] = torch.arange(784)
    for task, order in zip(many, orders, strict=True):
        assert torch.equal(task.train_inputs, inputs[:, order])
        assert torch.equal(task.test_inputs, inputs.flip(0)[:, order])
        assert torch.equal(task.train_targets, data.train_targets)
        assert task.classes == tuple(range(10))
    for ours, theirs in zip(few, many[:3], strict=True):
        assert torch.equal(ours.train_inputs, theirs.train_inputs)
    assert tuple(task.name for task in many) == PERMUTED_MNIST.task_names(12)
    assert PERMUTED_MNIST.task_names(2) == ("permutation 1", "permutation 2")


def test_permuted_mnist_has_all_images() -> None:
    first, second = PERMUTED_MNIST.stream(None, 2)
    assert first.train_inputs.shape == second.train_inputs.shape == (60_000, 784)
    assert first.test_inputs.shape == second.test_inputs.shape == (10_000, 784)
    assert torch.equal(first.train_inputs[:100].sort(1).values, second.train_inputs[:100].sort(1).values)
    assert not torch.equal(first.train_inputs[:100], second.train_inputs[:100])


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """Small data sets in place of CIFAR's, and which of them were asked for, from where."""
    asked: list[tuple[str, Path | None]] = []

    def loader(name: str, data: Task) -> Callable[[Path | None], Task]:
        def load(data_dir: Path | None) -> Task:
            asked.append((name, data_dir))
            return data

        return load

    ten, hundred = labelled(40, 10, 3, 32, 32), labelled(200, 50, 3, 32, 32)
    monkeypatch.setattr(split_cifar, "load_cifar10", loader("CIFAR-10", ten))
    monkeypatch.setattr(split_cifar, "load_cifar100", loader("CIFAR-100", hundred))
    for module in (split_cifar10, split_cifar10_halves):
        monkeypatch.setattr(module, "load_cifar10", loader("CIFAR-10", ten))
    return asked


def test_split_cifar_is_cifar10_and_then_ten_classes_of_cifar100_at_a_time(
    stand_ins: list[tuple[str, Path | None]],
) -> None:
    stream = SPLIT_CIFAR.stream(Path("here"), 6)
    assert stand_ins == [("CIFAR-10", Path("here")), ("CIFAR-100", Path("here"))]
    assert [task.classes for task in stream] == [tuple(range(first, first + 10)) for first in range(0, 60, 10)]
    for number, task in enumerate(stream):
        assert task.train_inputs.shape == (40, 3, 32, 32)
        for inputs, targets in ((task.train_inputs, task.train_targets), (task.test_inputs, task.test_targets)):
            # The pixels say the label that the image has in its own data set.
            own = targets if number == 0 else targets - 10
            assert (inputs.flatten(1) % 100 == own[:, None]).all()
            assert set(targets.tolist()) == set(task.classes)
    assert tuple(task.name for task in stream) == SPLIT_CIFAR.task_names(6)
    assert SPLIT_CIFAR.task_names(3) == ("CIFAR-10", "CIFAR-100 0-9", "CIFAR-100 10-19")
    assert made(SPLIT_CIFAR.network)(stream[0].train_inputs[:1].float()).shape == (1, stream[-1].classes[-1] + 1)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_fewer_tasks_of_cifar_are_the_first_of_them(stand_ins: list[tuple[str, Path | None]], tasks: int) -> None:
    few, all_six = SPLIT_CIFAR.stream(None, tasks), SPLIT_CIFAR.stream(None, 6)
    assert len(few) == tasks
    for ours, theirs in zip(few, all_six, strict=False):
        assert (ours.name, ours.classes) == (theirs.name, theirs.classes)
        assert torch.equal(ours.train_inputs, theirs.train_inputs)
        assert torch.equal(ours.test_targets, theirs.test_targets)
    # CIFAR-100 is not needed for CIFAR-10 alone.
    assert stand_ins.count(("CIFAR-100", None)) == (1 if tasks == 1 else 2)


@pytest.mark.parametrize("tasks", [5, 2])
def test_split_cifar10_is_pairs_of_classes(stand_ins: list[tuple[str, Path | None]], tasks: int) -> None:
    stream = SPLIT_CIFAR10.stream(Path("here"), tasks)
    assert stand_ins == [("CIFAR-10", Path("here"))]
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)][:tasks]
    for task in stream:
        assert (task.train_inputs.flatten(1) % 100 == task.train_targets[:, None]).all()
        assert (len(task.train_targets), len(task.test_targets)) == (8, 4)
    assert tuple(task.name for task in stream) == SPLIT_CIFAR10.task_names(tasks)
    assert SPLIT_CIFAR10.task_names(2) == ("0/1", "2/3")


@pytest.mark.parametrize("tasks", [2, 1])
def test_the_halves_are_the_first_and_the_last_five_classes(
    stand_ins: list[tuple[str, Path | None]], tasks: int
) -> None:
    stream = SPLIT_CIFAR10_HALVES.stream(Path("here"), tasks)
    assert stand_ins == [("CIFAR-10", Path("here"))]
    assert [task.classes for task in stream] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)][:tasks]
    for task in stream:
        assert (task.train_inputs.flatten(1) % 100 == task.train_targets[:, None]).all()
        assert (len(task.train_targets), len(task.test_targets)) == (20, 10)
    assert tuple(task.name for task in stream) == SPLIT_CIFAR10_HALVES.task_names(tasks) == ("0-4", "5-9")[:tasks]
    assert "one head of five outputs" in SPLIT_CIFAR10_HALVES.protocol["network"]


def test_without_its_data_each_says_so(tmp_path: Path) -> None:
    for experiment in ALL:
        with pytest.raises(DataError, match="--data-dir"):
            experiment.stream(tmp_path, 2)


@pytest.mark.usefixtures("stand_ins")
def test_split_cifar_is_trained_and_resumed_from_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and the layout of the weights in memory survive the way through files."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    settings = Settings(
        seeds=1,
        first_seed=0,
        c=(0.1,),
        xi=1e-3,
        epochs=1,
        batch_size=8,
        lr=1e-3,
        tasks=2,
        limit=16,
        rivals=("scratch",),
    )
    plans = [Plan(SPLIT_CIFAR, settings, "cpu", 1, None, tmp_path / name) for name in ("whole", "stopped")]
    heard: list[list[Message]] = [[], []]
    whole = start(plans[0], heard[0].append)
    with pytest.raises(Stop):
        start(plans[1], stop_at(4, heard[1]))
    assert numbers(resume(plans[1], heard[1].append)) == numbers(whole)
    losses = [[m.loss for m in messages if isinstance(m, EpochDone)] for messages in heard]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_the_page_says_of_the_halves_what_the_committed_runs_show() -> None:
    result = read_result(Path(__file__).parents[2] / "results" / "split-cifar10-halves.json")
    assert result.deviations == []
    free, held = sorted(result.complete_runs, key=lambda run: run.c or 0.0)
    assert (free.c, held.c) == (0.0, 0.1)
    assert free.accuracy[0] == held.accuracy[0]
    assert held.accuracy[0][0] - held.accuracy[1][0] < 0.02 < 0.1 < free.accuracy[0][0] - free.accuracy[1][0]
    assert fmean(held.accuracy[1]) > fmean(free.accuracy[1]) + 0.02
    assert held.accuracy[1][1] < free.accuracy[1][1] - 0.03
    assert held.final_train_accuracy[1] < free.final_train_accuracy[1] - 0.03


def test_the_page_says_of_cifar_what_the_committed_runs_show() -> None:
    """Without synapses a fresh Adam forgets less than the authors' did, and one that counts on as much.

    Those that count on share their first task with those that do not. With synapses either ends near theirs.
    """
    results = Path(__file__).parents[2] / "results"
    main, counting = (read_result(results / f"split-cifar{end}.json") for end in ("", "-kept-count"))
    found = {(run.method, run.c): run for run in main.complete_runs}
    counted = {run.c: run for run in counting.complete_runs}
    kept = counted[0.0]
    targets = TARGETS["split-cifar"]
    assert counting.settings["keep_step_count"] is True
    assert targets["si", 0.0].difference(fmean(found["si", 0.0].accuracy[-1])) > 0.05
    for c in (0.01, 0.1):
        for either in (found["si", c], counted[c]):
            assert abs(targets["si", c].difference(fmean(either.accuracy[-1]))) < 0.01
    assert abs(targets["si", 0.0].difference(fmean(kept.accuracy[-1]))) < 0.01
    scratch = found["scratch", None]
    pairs = {c: list(zip(found["si", c].accuracy[-1], scratch.accuracy[-1], strict=True)) for c in (0.0, 0.01, 0.1)}
    above = {c: [task for task, (a, b) in enumerate(both, 1) if a > b] for c, both in pairs.items()}
    assert above == {0.0: [3, 4, 5, 6], 0.01: [2, 3, 4, 5, 6], 0.1: [2, 3, 4]}
    for c in (0.01, 0.1):
        trained = (found["si", c].final_train_accuracy, scratch.final_train_accuracy)
        assert all(a < b for a, b in zip(*trained, strict=True))
    less = fmean(kept.accuracy[-1]) - fmean(found["si", 0.0].accuracy[-1])
    assert abs(less + targets["si", 0.0].difference(fmean(found["si", 0.0].accuracy[-1]))) <= 0.03
    assert {tuple(run.accuracy[0]) for run in (*counted.values(), *found.values())} == {tuple(kept.accuracy[0])}
    assert {run.train_accuracy[0] for run in (*counted.values(), *found.values())} == {kept.train_accuracy[0]}
    apart = {key for key, value in counting.settings.items() if main.settings.get(key, False) != value}
    assert apart == {"c", "rivals", "keep_step_count", "optimizer"}
