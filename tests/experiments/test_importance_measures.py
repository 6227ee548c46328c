"""The measures against definitions that are computed in another way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from synaptic_intelligence.experiments.importance_measures import (
    IMPORTANCE_MEASURES,
    MEASURES,
    compute,
    fisher_diagonal,
    hessian_diagonal,
    mas,
)
from synaptic_intelligence.experiments.networks import multilayer_perceptron


@pytest.fixture
def network() -> nn.Module:
    return multilayer_perceptron((5, 4, 3), torch.Generator().manual_seed(0), zero_output=False).double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 5, generator=generator, dtype=torch.float64), torch.randint(3, (7,), generator=generator)


def _theta(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


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
    found = fisher_diagonal(network, x, y)
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
    fisher, hessian = fisher_diagonal(network, x, y), hessian_diagonal(network, _theta(network), x, y)
    assert max(_relative(fisher[name], hessian[name]) for name in fisher) < 1e-12


def test_mas_is_the_mean_absolute_gradient_of_the_squared_length(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x, _ = data
    found = mas(network, _theta(network), x)
    for name, parameter in network.named_parameters():
        gradients = [torch.autograd.grad(network(one[None]).square().sum(), parameter)[0] for one in x]
        assert _relative(found[name], torch.stack(gradients).abs().mean(dim=0)) < 1e-12


def test_a_quick_study_has_every_correlation() -> None:
    heard: list[str] = []
    settings: Any = IMPORTANCE_MEASURES.quick
    numbers: Any = compute(settings, None, heard.append)
    spearman = numbers["spearman"]
    assert list(spearman) == ["0.weight", "2.weight", "4.weight", "all weights"]
    for kind in ("pearson", "spearman"):
        for matrices in numbers[kind].values():
            matrix = torch.tensor(matrices[0])
            assert matrix.shape == (len(MEASURES), len(MEASURES))
            assert torch.allclose(matrix, matrix.T)
            assert torch.allclose(matrix.diagonal(), torch.ones(len(MEASURES)))
            assert matrix.abs().max() <= 1 + 1e-6
    assert len(heard) == 1
    assert numbers["fisher_against_hessian"][0] < 1e-5
    assert math.isfinite(numbers["test_accuracy"][0])
