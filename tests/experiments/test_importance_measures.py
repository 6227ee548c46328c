"""The measures against definitions that are computed in another way."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.experiments.importance_measures import (
    IMPORTANCE_MEASURES,
    MEASURES,
    Measures,
    compute,
    estimated,
    fed_weights,
    hessian_diagonal,
    live_weights,
)
from synaptic_intelligence.experiments.networks import multilayer_perceptron
from synaptic_intelligence.functional import consolidated_omega
from synaptic_intelligence.importance import MAS, Fisher

assert isinstance(IMPORTANCE_MEASURES.quick, Measures)
QUICK = IMPORTANCE_MEASURES.quick


@pytest.fixture
def network() -> nn.Module:
    return multilayer_perceptron((5, 4, 3), torch.Generator().manual_seed(0), zero_output=False).double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 5, generator=generator, dtype=torch.float64), torch.randint(3, (7,), generator=generator)


def _theta(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def _fisher(network: nn.Module) -> Fisher:
    return Fisher(network, cross_entropy, kind="exact")


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_hessian_is_that_of_autograd(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    found = hessian_diagonal(network, _theta(network), x, y)
    for name, parameter in network.named_parameters():
        (first,) = torch.autograd.grad(cross_entropy(network(x), y), parameter, create_graph=True)
        second = [torch.autograd.grad(g, parameter, retain_graph=True)[0].flatten() for g in first.flatten()]
        expected = torch.stack([row[i] for i, row in enumerate(second)]).view_as(parameter)
        assert _relative(found[name], expected) < 1e-12


def test_fisher_is_the_mean_square_of_the_scores_under_the_models_own_labels(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    found = estimated(_fisher(network), x, y)
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter)
        for one in x:
            scores = log_softmax(network(one[None]), dim=1)[0]
            for score in scores:
                (g,) = torch.autograd.grad(score, parameter, retain_graph=True)
                expected += score.exp().detach() * g.square() / len(x)
        assert _relative(found[name], expected) < 1e-12


def test_in_a_network_of_relus_hessian_and_fisher_have_the_same_diagonal(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    fisher, hessian = estimated(_fisher(network), x, y), hessian_diagonal(network, _theta(network), x, y)
    assert max(_relative(fisher[name], hessian[name]) for name in fisher) < 1e-12


def test_mas_is_the_mean_absolute_gradient_of_the_squared_length(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    found = estimated(MAS(network), *data)
    for name, parameter in network.named_parameters():
        gradients = [torch.autograd.grad(network(one[None]).square().sum(), parameter)[0] for one in data[0]]
        assert _relative(found[name], torch.stack(gradients).abs().mean(dim=0)) < 1e-12


def test_what_is_left_out_depends_on_the_input_alone() -> None:
    network = multilayer_perceptron((3, 2, 2), torch.Generator().manual_seed(0), zero_output=False)
    x = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.25]])
    with torch.no_grad():
        network.get_parameter("0.bias").fill_(-10.0)  # every hidden unit is off: Fisher is zero at all weights
    assert estimated(_fisher(network), x, torch.tensor([0, 1]))["2.weight"].count_nonzero() == 0
    kept = fed_weights(_theta(network), x)
    assert list(kept) == ["0.weight", "2.weight"]
    assert kept["0.weight"].tolist() == [[False, True, True]] * 2
    assert kept["2.weight"].all()


def test_weights_of_units_that_are_always_off_are_not_live() -> None:
    network = multilayer_perceptron((3, 2, 2, 2), torch.Generator().manual_seed(0), zero_output=False)
    assert isinstance(network, nn.Sequential)
    x = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.25]])
    with torch.no_grad():
        network.get_parameter("0.weight").fill_(1.0)
        network.get_parameter("0.bias").copy_(torch.tensor([-10.0, 0.0]))
        network.get_parameter("2.weight").fill_(-1.0)
        network.get_parameter("2.bias").copy_(torch.tensor([0.0, 0.3]))  # on for the second image alone
    live, off = live_weights(network, x)
    assert live["0.weight"].tolist() == [[False] * 3, [False, True, True]]
    assert live["2.weight"].tolist() == [[False, False], [False, True]]
    assert live["4.weight"].tolist() == [[False, True]] * 2
    assert off == 2
    # What is not live has no Fisher information.
    fisher = estimated(_fisher(network), x, torch.tensor([0, 1]))
    assert all(fisher[name][mask].any() and not fisher[name][~mask].any() for name, mask in live.items())


@pytest.fixture(scope="module")
def numbers() -> Any:
    heard: list[str] = []
    found = compute(replace(QUICK, seeds=2), None, heard.append)
    assert len(heard) == 2
    return found


def test_a_quick_study_has_every_correlation(numbers: Any) -> None:
    assert list(numbers["spearman"]) == list(numbers["spearman_live"])
    assert list(numbers["spearman"]) == ["0.weight", "2.weight", "4.weight", "all weights"]
    for matrices in (*numbers["spearman"].values(), *numbers["spearman_live"].values()):
        assert len(matrices) == 2
        for matrix in map(torch.tensor, matrices):
            assert matrix.shape == (len(MEASURES), len(MEASURES))
            assert torch.allclose(matrix, matrix.T)
            assert torch.allclose(matrix.diagonal(), torch.ones(len(MEASURES)))
            assert matrix.abs().max() <= 1 + 1e-6
    assert max(numbers["fisher_against_hessian"]) < 1e-5
    assert all(math.isfinite(reached) for reached in numbers["test_accuracy"])


def test_every_weight_of_every_seed_is_compared_or_left_out(numbers: Any) -> None:
    compared, left_out, zero = (numbers[name] for name in ("compared", "left_out", "zero_fisher"))
    sizes = {"0.weight": 784 * QUICK.hidden, "2.weight": QUICK.hidden**2, "4.weight": QUICK.hidden * 10}
    for name, size in {**sizes, "all weights": sum(sizes.values())}.items():
        assert [a + b for a, b in zip(compared[name], left_out[name], strict=True)] == [size] * 2
        assert all(some < most for some, most in zip(zero[name], compared[name], strict=True))
    pixels = load_mnist().train_inputs[: QUICK.reference].any(dim=0).sum()
    assert compared["0.weight"] == [QUICK.hidden * int(pixels)] * 2
    assert left_out["2.weight"] == left_out["4.weight"] == [0, 0]
    # A weight is compared though its Fisher information is zero.
    assert max(zero["0.weight"]) > 0


def test_omega_is_the_path_over_the_squared_distance(numbers: Any) -> None:
    omega, path, distance = (torch.tensor(numbers["scatter"][name]) for name in ("omega", "path", "distance"))
    assert _relative(consolidated_omega(torch.zeros_like(path), path, distance, QUICK.xi), omega) < 1e-5
