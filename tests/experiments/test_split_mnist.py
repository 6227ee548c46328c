from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.experiments.split_mnist import SPLIT_MNIST, network, stream
from synaptic_intelligence.report.statistics import mean_and_interval, summarize
from synaptic_intelligence.result import read_result


def _layers(seed: int) -> list[nn.Linear]:
    model = network(torch.Generator().manual_seed(seed))
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def test_the_defaults_are_the_papers() -> None:
    assert EXPERIMENTS["split-mnist"] is SPLIT_MNIST
    assert SPLIT_MNIST.paper == Settings(
        seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5, limit=None, rivals=()
    )
    assert SPLIT_MNIST.multi_head
    assert SPLIT_MNIST.fresh_optimizer
    assert SPLIT_MNIST.most_tasks == 5
    assert SPLIT_MNIST.chance == 0.5


def test_the_network_is_784_256_256_10() -> None:
    model = network(torch.Generator().manual_seed(0))
    kinds = [type(layer) for layer in model.children()]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in _layers(0)] == [(784, 256), (256, 256), (256, 10)]


def test_hidden_weights_are_glorot_uniform_and_all_else_is_zero() -> None:
    *hidden, output = _layers(0)
    for layer in hidden:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max() <= bound
        # The standard deviation of a uniform distribution, whose estimate from 65536 numbers is good to about 0.2 %.
        assert math.isclose(layer.weight.std().item(), bound / math.sqrt(3), rel_tol=0.01)
        assert not layer.bias.any()
    assert not output.weight.any()
    assert not output.bias.any()


def test_the_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = _layers(0)[0].weight, _layers(0)[0].weight, _layers(1)[0].weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_stream_is_five_pairs_of_digits_with_all_their_images() -> None:
    tasks = stream()
    assert tuple(task.name for task in tasks) == SPLIT_MNIST.task_names(5) == ("0/1", "2/3", "4/5", "6/7", "8/9")
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert sum(len(task.train_targets) for task in tasks) == 60000
    assert sum(len(task.test_targets) for task in tasks) == 10000


def test_fewer_tasks_are_the_first_of_them() -> None:
    few, names = stream(tasks=2), SPLIT_MNIST.task_names(2)
    assert tuple(task.name for task in few) == names == ("0/1", "2/3")
    # The known number of images of the digits 2 and 3.
    assert len(few[1].train_targets) == 5958 + 6131


def test_the_page_says_what_the_committed_runs_that_count_on_show() -> None:
    """Without synapses more is forgotten, by more than chance; with them less; and the seeds differ more."""
    results = Path(__file__).parents[2] / "results"
    fresh, kept = (read_result(results / f"split-mnist{end}.json") for end in ("", "-kept-count"))
    found = {}
    for name, result in (("fresh", fresh), ("kept", kept)):
        for c in (0.0, 1.0):
            found[name, c] = [fmean(run.accuracy[-1]) for run in result.complete_runs if run.c == c]
            assert len(found[name, c]) == 10
    lost = mean_and_interval([b - a for a, b in zip(found["fresh", 0.0], found["kept", 0.0], strict=True)])
    assert lost.half_width is not None
    assert lost.mean + lost.half_width < 0
    # The first task loses much, the second and third gain a little, all by more than chance.
    finals = [[run.accuracy[-1] for run in result.complete_runs if run.c == 0.0] for result in (fresh, kept)]
    pairs = list(zip(*finals, strict=True))
    first, *little = (mean_and_interval([b[task] - a[task] for a, b in pairs]) for task in range(3))
    assert first.mean + (first.half_width or 1) < -0.1
    assert all(0 < change.mean - (change.half_width or 1) < change.mean < 0.06 for change in little)
    forgotten = [
        next(s.forgetting for s in summarize(result) if (s.method, s.c) == ("si", 1.0)) for result in (fresh, kept)
    ]
    assert forgotten[0] is not None
    assert forgotten[1] is not None
    assert forgotten[1].mean < forgotten[0].mean
    assert fmean(found["kept", 1.0]) >= fmean(found["fresh", 1.0])
    assert stdev(found["kept", 0.0]) > stdev(found["fresh", 0.0])
