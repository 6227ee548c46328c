"""The computations that benchmarks make of their own."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from synaptic_intelligence import SynapticIntelligence
from synaptic_intelligence.experiments.networks import multilayer_perceptron
from synaptic_intelligence.tasks import Task
from synaptic_intelligence.train import train_epoch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script of benchmarks/ as a module, found with those beside it as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def loaded(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


def test_epsilon_before_the_correction_is_the_adam_of_keras(load: Callable[[str], Any]) -> None:
    """theta -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)."""
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([p], lr=0.1, eps=1e-3)
    load("adam_epsilon").put_before_the_correction(optimizer)
    theta, m, v = p.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in range(1, 8):
        gradient = torch.tensor([0.01 * step, -1e-3], dtype=torch.float64)
        p.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        theta -= 0.1 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step) * m / (v.sqrt() + 1e-3)
        torch.testing.assert_close(p.detach(), theta, rtol=1e-12, atol=0)


def test_the_clipped_loss_is_that_of_keras_and_teaches_nothing_where_it_clips(load: Callable[[str], Any]) -> None:
    module = load("as_the_authors")
    # Wrong and certain of it, in between, right and certain of it.
    logits = torch.tensor([[-20.0, 0.0, 0.0], [1.0, 0.0, -1.0], [20.0, 0.0, 0.0]], dtype=torch.float64)
    logits.requires_grad_()
    loss, clipped = module.clipped_cross_entropy(logits, torch.tensor([0, 0, 0]))
    between = torch.log(1 + torch.exp(torch.tensor([-1.0, -2.0], dtype=torch.float64)).sum())
    expected = (-math.log(1e-7) + float(between) - math.log(1 - 1e-7)) / 3
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert int(clipped) == 2
    loss.backward()
    p = logits.detach()[1].softmax(0) - torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(logits.grad, torch.stack([0 * p, p / 3, 0 * p]), rtol=1e-12, atol=0)


def test_without_what_is_clipped_that_loop_is_the_librarys(load: Callable[[str], Any]) -> None:
    module = load("as_the_authors")
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    task = Task("all", x, torch.arange(50) % 3, x, torch.arange(50) % 3, (0, 1, 2))
    weights = []
    for librarys in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        optimizer, order = torch.optim.Adam(model.parameters()), torch.Generator().manual_seed(1)
        for _ in range(3):
            if librarys:
                train_epoch(model, optimizer, task, batch_size=8, generator=order, multi_head=False)
            else:
                assert module.train_epoch(model, optimizer, task, 8, order) == 0.0
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_with_the_first_anchor_at_zero_the_first_importance_is_the_path_over_the_squared_weights(
    load: Callable[[str], Any],
) -> None:
    module = load("as_the_authors")
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = SynapticIntelligence([("p", p)], optimizer, c=0.02, xi=0.1)
    module.put_the_first_anchor_at_zero(synapses)
    target, theta, path = torch.ones(3).double(), p.detach().clone(), torch.zeros(3).double()
    for _ in range(5):
        optimizer.zero_grad()
        ((p - target) ** 2).sum().backward()
        optimizer.step()
        path += 0.1 * (2 * (theta - target)) ** 2
        theta -= 0.1 * 2 * (theta - target)
    synapses.consolidate()
    torch.testing.assert_close(synapses.omega["p"], path / (theta**2 + 0.1), rtol=1e-12, atol=0)
    # From the second task on the weights are held where they are, not at zero.
    torch.testing.assert_close(synapses.state_dict()["anchor"]["p"], theta, rtol=1e-12, atol=0)


@pytest.fixture
def as_the_authors(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with a network and images of toys."""
    module = load("as_the_authors")
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.rand(60, 8, generator=generator), torch.arange(60) % 3
    data = Task("all", pixels, labels, pixels, labels, (0, 1, 2))
    monkeypatch.setattr(module, "load_mnist", lambda folder: data)
    network = partial(multilayer_perceptron, (8, 5, 3), zero_output=False)
    monkeypatch.setattr(module, "EXPERIMENT", replace(module.EXPERIMENT, network=network))
    return module


def test_the_authors_anchor_and_other_permutations_are_learnt_with(as_the_authors: Any) -> None:
    def learnt(permutations: int, first_anchor: str) -> dict[str, Any]:
        return dict(as_the_authors.learn((0.5, permutations), first_anchor=first_anchor, epochs=30, tasks=2))

    ours, zero, other = learnt(2017, "weights"), learnt(2017, "zero"), learnt(1, "weights")
    assert ours == learnt(2017, "weights")
    assert ours["accuracy"][0][0] == zero["accuracy"][0][0] == other["accuracy"][0][0]  # the first task is the same
    assert ours["sum_of_omega"] != pytest.approx(zero["sum_of_omega"], rel=0.01)
    assert ours["accuracy"] != other["accuracy"]
    assert (ours["permutations"], other["permutations"]) == (2017, 1)
    assert len(ours["clipped"]) == 2


def test_a_result_with_other_options_takes_no_others_place(
    as_the_authors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:
        """Learns nothing, in this process."""

        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, learn: Any, runs: list[Any]) -> list[Any]:
            return runs

    monkeypatch.setattr(as_the_authors, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(as_the_authors, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    others = ("--c 0.1", "--c 0.02 --first-anchor zero", "--permutations 1 --permutations 2", "--epochs 1", "--tasks 2")
    for asked in ("", *others):
        monkeypatch.setattr("sys.argv", ["as_the_authors", *asked.split()])
        as_the_authors.main()
    made = {path.name: json.loads(path.read_text("utf-8")) for path in (tmp_path / "results").iterdir()}
    assert len(made) == 1 + len(others)
    assert made["as-the-authors.json"]["command"] == "python benchmarks/as_the_authors.py"
    anchored = made["as-the-authors-c-0.02-first-anchor-zero.json"]
    assert anchored["command"] == "python benchmarks/as_the_authors.py --c 0.02 --first-anchor zero"
    assert anchored["runs"] == [[0.02, 2017]]


def test_shares_add_up_and_tell_units_from_synapses(load: Callable[[str], Any]) -> None:
    module = load("shared_synapses")
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (30, 40))
    product = torch.outer(rows, columns)
    torch.testing.assert_close(module.by_units(product), product)
    of_units = module.shares([product, 2 * product])
    assert of_units == pytest.approx(
        {"variance, units": 1, "covariance, units": 1, "covariance, synapses": 0, "covariance, between": 0}, abs=1e-12
    )
    # Sums of zero over all rows and columns: what no units have in common.
    noise = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    noise -= noise.mean(1, keepdim=True)
    shared = module.shares([product + noise, product - noise])
    assert sum(value for name, value in shared.items() if name.startswith("covariance")) == pytest.approx(1)
    # What is opposite outweighs what is the same, so that the whole is below zero.
    assert shared["covariance, units"] < 0 < 1 < shared["covariance, synapses"]
    assert shared["variance, units"] < 0.2
    assert module.shares([product + noise, 2 * product + noise])["covariance, synapses"] > 0.8


SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if '"--out"' in path.read_text("utf-8"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_result_that_could_not_be_written_is_refused_before_anything_is_computed(
    name: str,
    load: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = load(name)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("it went on"))
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("it went on"), raising=False)
    monkeypatch.setattr("os.access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    refused = {"does not exist": tmp_path / "none" / "x.json", "is a folder": tmp_path, "may not": tmp_path / "x.json"}
    for said, given in refused.items():
        monkeypatch.setattr("sys.argv", [name, "--out", str(given)])
        with pytest.raises(SystemExit) as caught:
            module.main()
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_a_result_in_a_folder_that_is_there_can_be_written(load: Callable[[str], Any], tmp_path: Path) -> None:
    result_file = load("result_file").result_file
    assert result_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    assert result_file("x.json") == Path("x.json")
