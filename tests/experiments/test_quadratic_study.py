"""The closed forms against independent numerics, and the synapses against the closed forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad_vec
from scipy.linalg import expm

from synaptic_intelligence.experiments.quadratic import (
    QUADRATIC,
    Problem,
    Quadratic,
    average_path,
    closed_path,
    compute,
    descend,
    expected_error,
    make_problems,
)
from synaptic_intelligence.experiments.study import run_study, study_deviations
from synaptic_intelligence.findings import read_findings, write_findings

SMALL = Quadratic(seeds=2, dimension=6, condition_number=4.0, initial_conditions=256, step_sizes=(0.08, 0.04), sigma=2)


def problem(eigenvalues: list[float], starts: int = 3) -> Problem:
    k = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64)).Q
    target = torch.randn(k, dtype=torch.float64)
    start = target + torch.randn(starts, k, dtype=torch.float64)
    return Problem(torch.tensor(eigenvalues, dtype=torch.float64), basis, target, start)


def difference(a: Any, b: Any) -> float:
    """The largest absolute difference over the largest absolute value."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


@pytest.fixture(scope="module")
def numbers() -> Mapping[str, Any]:
    return compute(SMALL, None, lambda words: None)


def test_equation_11_is_the_integral_over_gradient_flow() -> None:
    case = problem([3.0, 0.7, 1.9, 0.4])
    hessian, offsets = case.hessian.numpy(), (case.start - case.target).numpy()

    def rate(time: float) -> Any:
        # The gradient is H (theta - theta*), the velocity minus that: the path grows by the gradient's square.
        return np.square(offsets @ expm(-hessian * time) @ hessian)

    integral, _ = quad_vec(rate, 0, 60, epsrel=1e-11)
    assert difference(closed_path(case), integral) < 1e-9


def test_with_a_step_it_is_the_sum_over_gradient_descent() -> None:
    case, step = problem([3.0, 0.7, 1.9, 0.4]), 0.1
    theta, path = case.start.numpy().copy(), np.zeros((3, 4))
    for _ in range(1000):
        gradient = (theta - case.target.numpy()) @ case.hessian.numpy()
        theta -= step * gradient
        path += step * gradient**2
    assert difference(closed_path(case, step), path) < 1e-12


def test_equation_13_where_the_hessian_is_diagonal() -> None:
    case = problem([3.0, 0.7, 1.9])
    case = Problem(case.eigenvalues, torch.eye(3, dtype=torch.float64), case.target, case.start)
    expected = 0.5 * (case.start - case.target) ** 2 * case.eigenvalues
    assert difference(closed_path(case), expected) < 1e-12


def test_equation_14_where_its_rank_is_one() -> None:
    case = problem([3.0, 0.0, 0.0])
    u = case.basis[:, 0]
    expected = 0.5 * ((case.start - case.target) @ u)[:, None] ** 2 * 3.0 * u**2
    assert difference(closed_path(case), expected) < 1e-12
    assert difference(case.hessian.diagonal(), 3.0 * u**2) < 1e-12


def test_equation_12_is_the_mean_of_equation_11_over_starts_of_that_covariance() -> None:
    case, sigma = problem([3.0, 0.7, 1.9, 0.4]), 1.7
    # Four orthogonal offsets of length sigma sqrt(4): their mean outer product is exactly sigma^2 times the identity.
    offsets = sigma * 2 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    mean = closed_path(Problem(case.eigenvalues, case.basis, case.target, case.target + offsets)).mean(0)
    assert difference(average_path(case, sigma), mean) < 1e-12


def test_the_expected_error_is_that_of_a_quadratic_form() -> None:
    case, sigma = problem([3.0, 0.7, 1.9]), 1.7

    def path(offset: torch.Tensor) -> torch.Tensor:
        return closed_path(Problem(case.eigenvalues, case.basis, case.target, case.target + offset[None]))[0]

    unit = torch.eye(3, dtype=torch.float64)
    matrices = torch.stack(
        [torch.stack([(path(a + b) - path(a) - path(b)) / 2 for b in unit]) for a in unit]
    )  # [i, j, k], by polarization
    variance = 2 * sigma**4 * matrices.square().sum((0, 1))
    mean = sigma**2 * torch.einsum("iik->k", matrices)
    expected = float((variance.sum() / 50).sqrt() / mean.norm())
    assert expected_error(case, sigma, 50) == pytest.approx(expected, rel=1e-12)


def test_the_synapses_give_path_and_omega_of_gradient_descent() -> None:
    cases = {"any": problem([3.0, 0.7, 1.9]), "rank 1": problem([3.0, 0.0, 0.0])}
    found = descend(cases, step=0.05, time=60.0, xi=1e-18)
    for name, case in cases.items():
        assert difference(found[name][0], closed_path(case, 0.05)) < 1e-12
    movement = cases["any"].start - cases["any"].target
    assert difference(found["any"][1], closed_path(cases["any"], 0.05) / movement**2) < 1e-9
    # The same for every synapse: half the eigenvalue, and what the step adds.
    assert difference(found["rank 1"][1], np.full((3, 3), 1.5 / (1 - 0.05 * 1.5))) < 1e-9


def test_the_problems_are_as_their_settings_say() -> None:
    made = [make_problems(SMALL, seed) for seed in range(20)]
    for problems in made:
        for case in problems.values():
            assert difference(case.basis @ case.basis.T, np.eye(6)) < 1e-12
        for name in ("any", "diagonal"):
            values = problems[name].eigenvalues
            assert float(values.max()) == 1.0
            assert float(values.min()) == pytest.approx(0.25)
        assert problems["diagonal"].hessian.count_nonzero() == 6
        assert problems["any"].start.shape == (256, 6)
    offsets = torch.stack([problems["any"].start - problems["any"].target for problems in made])
    assert float(offsets.std()) == pytest.approx(2.0, rel=0.02)
    # As the QR algorithm leaves it, the first entry has always the same sign.
    assert len({bool(problems["any"].basis[0, 0] > 0) for problems in made}) == 2
    exponents = torch.cat([problems["any"].eigenvalues[2:] for problems in made]).log() / np.log(0.25)
    assert float(exponents.mean()) == pytest.approx(0.5, abs=0.08)


def test_errors_are_of_first_order_and_vanish_when_extrapolated(numbers: Mapping[str, Any]) -> None:
    for equation, error, extrapolated in (
        ("eq. 11", "error", "extrapolated"),
        ("eq. 13", "error", "extrapolated"),
        ("eq. 14", "path_error", "path_extrapolated"),
        ("eq. 14", "omega_error", "omega_extrapolated"),
    ):
        found = numbers[equation]
        for (coarse, fine), rest in zip(found[error], found[extrapolated], strict=True):
            assert fine < 0.03
            assert coarse / fine == pytest.approx(2, rel=0.06)
            assert rest < fine / 10
    assert numbers["eq. 11"]["order"] == pytest.approx([1, 1], abs=0.1)
    assert max(numbers["eq. 11"]["against_descent"]) < 1e-12


def test_of_a_diagonal_hessian_the_largest_error_of_omega_is_known(numbers: Mapping[str, Any]) -> None:
    # H / (2 - step H) instead of H / 2: of the largest curvature, 1, it misses step / (2 - step).
    for errors in numbers["eq. 13"]["error"]:
        assert errors == pytest.approx([0.08 / 1.92, 0.04 / 1.96], rel=1e-4)


def test_averages_close_in_on_the_diagonal_as_they_should(numbers: Mapping[str, Any]) -> None:
    found = numbers["eq. 12"]
    assert numbers["counts"] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for error, expected in zip(found["error"], found["expected"], strict=True):
        assert error[:4] == pytest.approx(expected[:4], rel=0.15)
        assert expected[0] / expected[-1] == pytest.approx(16)
    assert np.mean(found["slope"]) == pytest.approx(-0.5, abs=0.12)
    assert min(found["correlation"]) > max(found["correlation_of_one_start"])


def test_the_path_tells_the_diagonal_of_rank_one_and_omega_does_not(numbers: Mapping[str, Any]) -> None:
    found = numbers["eq. 14"]
    for half, path, omega in zip(
        found["half_curvature"], found["path_over_squared_distance"], found["omega"], strict=True
    ):
        assert np.corrcoef(half, path)[0, 1] > 1 - 1e-9
        assert max(half) / min(half) > 3
        assert max(omega) / min(omega) < 1 + 1e-6
    assert max(found["omega_spread"]) < 1e-6


def test_every_seed_has_its_own_numbers_and_the_same_again(numbers: Mapping[str, Any]) -> None:
    assert numbers["eq. 11"]["error"][0] != numbers["eq. 11"]["error"][1]
    assert all(len(values) == 2 for name in numbers if name != "counts" for values in numbers[name].values())
    first = Quadratic(1, SMALL.dimension, SMALL.condition_number, SMALL.initial_conditions, SMALL.step_sizes, 2.0)
    again: Mapping[str, Any] = compute(first, None, lambda words: None)
    assert again["eq. 12"]["path"] == numbers["eq. 12"]["path"][:1]


def test_the_quick_form_is_a_small_file_that_says_what_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    quick = Quadratic(seeds=1, dimension=5, condition_number=2.0, initial_conditions=10, step_sizes=(0.08, 0.04))
    findings = run_study(QUADRATIC, quick, None, 1, "synaptic run quadratic", said.append)
    write_findings(findings, tmp_path / "findings.json")
    assert read_findings(tmp_path / "findings.json").numbers == json.loads(json.dumps(findings.numbers))
    assert (tmp_path / "findings.json").stat().st_size < 200_000
    assert said == ["seed 0: descended with steps of 0.08", "seed 0: descended with steps of 0.04"]
    assert "dimension 5 instead of 20" in findings.deviations
    assert study_deviations(QUADRATIC, QUADRATIC.settings) == []
    assert study_deviations(QUADRATIC, QUADRATIC.quick) != []
