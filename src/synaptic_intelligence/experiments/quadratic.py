"""A quadratic loss, on which path and omega are known in closed form (section 4 of the paper, its equations 11 to 14).

    synaptic run quadratic

The loss is 1/2 (theta - theta*)' H (theta - theta*). The synapses are the library's, around gradient descent with
small steps; the closed forms are of gradient flow, its limit of infinitely small ones. Expect an error that shrinks in
proportion to the step, and nearly none once that is extrapolated to a step of zero.

Both path and omega tell the Hessian's diagonal if H is diagonal. If H has rank 1, the path does, and omega does not: it
is the same for every synapse, half the one eigenvalue, since squared movement is in proportion to the diagonal too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from synaptic_intelligence.consolidator import SynapticIntelligence
from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.paths import correlation
from synaptic_intelligence.experiments.study import Study

_DECAY = 16.0  # descent ends where the slowest direction has decayed by exp(-16): the path is then complete to 1e-14
_FEW = 64  # initial conditions of the diagonal and the rank-1 Hessian, where each start says the same
_XI = 1e-18  # over sigma^2; so small that it changes no digit that is looked at


@final
@dataclass(frozen=True)
class Quadratic:
    """The settings: which Hessians, how many starting points, and how small the steps.

    Args:
        seeds: repetitions, each with Hessians, minimum and starting points of its own.
        dimension: the number K of synapses.
        condition_number: largest over smallest eigenvalue of the Hessian; the largest is 1, in loss / theta^2.
        initial_conditions: starting points, which descend side by side as the rows of one parameter.
        step_sizes: learning rates, in units of 1 / largest eigenvalue; two or more, each half of the one before.
        sigma: standard deviation of theta(0) - theta*, in theta.
    """

    seeds: int = 5
    dimension: int = 20
    condition_number: float = 10.0
    initial_conditions: int = 2048
    step_sizes: tuple[float, ...] = (0.08, 0.04, 0.02, 0.01)
    sigma: float = 0.5


@final
@dataclass(frozen=True)
class Problem:
    """A Hessian with its eigenbasis, and the points at which descent starts and ends.

    Args:
        eigenvalues: ``[K]``, in loss / theta^2.
        basis: ``[K, K]``, orthogonal; eigenvector a is column a.
        target: theta*, the minimum, ``[K]``, in theta.
        start: theta(0), ``[n, K]``, in theta.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> problem = Problem(torch.tensor([2.0, 1.0]).double(), eye, target=0 * eye[0], start=eye)
        >>> problem.hessian.diagonal().tolist()
        [2.0, 1.0]
    """

    eigenvalues: Tensor
    basis: Tensor
    target: Tensor
    start: Tensor

    @property
    def hessian(self) -> Tensor:
        """H, ``[K, K]``, in loss / theta^2."""
        return (self.basis * self.eigenvalues) @ self.basis.T

    def weights(self, step: float = 0.0) -> Tensor:
        """Return how much each pair of directions adds to the path, ``[K, K]``, in loss / theta^2.

        It is ``lambda_a lambda_b / (lambda_a + lambda_b - step lambda_a lambda_b)``, and 0 where both are zero.

        Source: Zenke et al. 2017, eq. 11, its bracket, at step 0; else the sum over steps of gradient descent with
        this learning rate, a geometric series of ``(1 - step lambda_a) (1 - step lambda_b)``.
        """
        product = self.eigenvalues[:, None] * self.eigenvalues
        total = self.eigenvalues[:, None] + self.eigenvalues - step * product
        return torch.where(product > 0, product / total.where(product > 0, torch.ones_like(total)), 0.0)


def closed_path(problem: Problem, step: float = 0.0) -> Tensor:
    """Return the path integral of every synapse when descent has come to rest, ``[n, K]``, in units of the loss.

    Args:
        problem: the loss, and where descent starts.
        step: learning rate of gradient descent; 0: gradient flow, the paper's equation.

    With ``d^a = u^a . (theta(0) - theta*)`` it is the sum over a and b of ``u^a_k d^a w_ab d^b u^b_k``, ``w_ab`` being
    the weights.

    Source: Zenke et al. 2017, eq. 11.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> problem = Problem(torch.tensor([2.0, 1.0]).double(), eye, target=0 * eye[0], start=3 * eye)
        >>> closed_path(problem)  # H is diagonal: 1/2 d_k^2 H_kk, eq. 13
        tensor([[9.0000, 0.0000],
                [0.0000, 4.5000]], dtype=torch.float64)
    """
    offset = (problem.start - problem.target) @ problem.basis
    parts = offset[:, None, :] * problem.basis  # [n, k, a]: what direction a contributes to synapse k
    return ((parts @ problem.weights(step)) * parts).sum(-1)


def average_path(problem: Problem, sigma: float) -> Tensor:
    """Return the mean path over starting points of variance ``sigma^2``: ``1/2 sigma^2 H_kk``, ``[K]``, in loss.

    Source: Zenke et al. 2017, eq. 12.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> average_path(Problem(torch.tensor([2.0, 1.0]).double(), eye, target=0 * eye[0], start=eye), sigma=1.0)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    return 0.5 * sigma**2 * problem.hessian.diagonal()


def expected_error(problem: Problem, sigma: float, count: int) -> float:
    """Return by how much the mean of ``count`` paths misses :func:`average_path`, root mean square, relative.

    Starting points are normally distributed, so that a path, a quadratic form of them with the matrix M_k, has the
    variance ``2 sigma^4 tr(M_k^2)``.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> problem = Problem(torch.ones(2).double(), eye, target=0 * eye[0], start=eye)
        >>> round(expected_error(problem, sigma=1.0, count=200), 12)  # chi-squared with one degree of freedom
        0.1
    """
    squares = problem.basis.square()
    variance = 2 * sigma**4 * ((squares @ problem.weights().square()) * squares).sum(-1)
    return math.sqrt(float(variance.sum()) / count) / float(average_path(problem, sigma).norm())


def descend(problems: Mapping[str, Problem], step: float, time: float, xi: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Descend all problems side by side by ``torch.optim.SGD``, and return the synapses' path and omega of each.

    Args:
        problems: by name; each is a parameter of its own.
        step: learning rate, in theta^2 / loss.
        time: step times number of steps.
        xi: damping, in theta^2.

    Returns:
        By name path, in units of the loss, and omega, in loss / theta^2, both ``[n, K]``.

    The gradient ``(theta - theta*) H`` is written down, not left to autograd, which takes twice as long.

    Source: Zenke et al. 2017, eqs. 3 and 5, by the library.

    Example:
        >>> eye = torch.eye(1, dtype=torch.float64)
        >>> problem = Problem(torch.tensor([2.0]).double(), eye, target=0 * eye[0], start=3 * eye)
        >>> path, omega = descend({"one": problem}, step=0.01, time=10.0, xi=1e-18)["one"]
        >>> f"{path.item():.1f} {omega.item():.1f}"  # 9 and 1, but for the step
        '9.1 1.0'
    """
    parameters = {name: torch.nn.Parameter(problem.start.clone()) for name, problem in problems.items()}
    hessians = {name: problem.hessian for name, problem in problems.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=step)
    synapses = SynapticIntelligence(parameters.items(), optimizer, c=0.0, xi=xi)
    for _ in range(round(time / step)):
        for name, parameter in parameters.items():
            parameter.grad = (parameter.detach() - problems[name].target) @ hessians[name]
        optimizer.step()
    paths = synapses.consolidate()
    return {name: (paths[name], synapses.omega[name]) for name in problems}


def make_problems(settings: Quadratic, seed: int) -> dict[str, Problem]:
    """Return three random problems: any Hessian, a diagonal one, and one of rank 1, as double precision.

    Eigenvalues are log-uniform between 1 / condition number and 1, both of which occur; bases are Haar-random.

    Example:
        >>> problems = make_problems(Quadratic(dimension=3, initial_conditions=100), seed=0)
        >>> {name: (len(p.start), int(torch.linalg.matrix_rank(p.hessian))) for name, p in problems.items()}
        {'any': (100, 3), 'diagonal': (64, 3), 'rank 1': (64, 1)}
    """
    random = torch.Generator().manual_seed(seed)
    k = settings.dimension

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def eigenvalues() -> Tensor:
        exponents = torch.rand(k, generator=random, dtype=torch.float64)
        exponents[0], exponents[1] = 0.0, 1.0
        return (-math.log(settings.condition_number) * exponents).exp()

    def rotation() -> Tensor:
        q, r = torch.linalg.qr(normal(k, k))
        haar: Tensor = q * r.diagonal().sign()  # without the signs it would not be uniform
        return haar

    one = torch.zeros(k, dtype=torch.float64)
    one[0] = 1.0
    made = {
        "any": (eigenvalues(), rotation(), settings.initial_conditions),
        "diagonal": (eigenvalues(), torch.eye(k, dtype=torch.float64), _FEW),
        "rank 1": (one, rotation(), _FEW),
    }
    problems = {}
    for name, (values, basis, count) in made.items():
        target = normal(k)
        problems[name] = Problem(values, basis, target, target + settings.sigma * normal(count, k))
    return problems


def compute(settings: Quadratic, data_dir: Path | None, listen: Callable[[str], None]) -> Mapping[str, JSON]:
    """Descend with each step size, and return how path and omega differ from the paper's equations, seed by seed.

    Errors are fractions: for paths the largest absolute difference over the largest absolute value, for omega the
    largest relative difference of any synapse, for averages the root mean square over synapses and groups of starting
    points over that of the equation. ``extrapolated`` are those of a step of zero, by Richardson from the two smallest.
    """
    found: dict[str, dict[str, list[JSON]]] = {"eq. 11": {}, "eq. 12": {}, "eq. 13": {}, "eq. 14": {}}
    time, xi = _DECAY * settings.condition_number, _XI * settings.sigma**2
    for seed in range(settings.seeds):
        problems = make_problems(settings, seed)
        runs = []
        for step in settings.step_sizes:
            runs.append(descend(problems, step, time, xi))
            listen(f"seed {seed}: descended with steps of {step:g}")
        paths = {name: [run[name][0] for run in runs] for name in problems}
        omegas = {name: [run[name][1] for run in runs] for name in problems}
        equations = (
            _equation_11(problems["any"], paths["any"], settings),
            _equation_12(problems["any"], _extrapolated(paths["any"]), settings),
            _equation_13(problems["diagonal"], omegas["diagonal"], settings),
            _equation_14(problems["rank 1"], paths["rank 1"], omegas["rank 1"]),
        )
        for lists, numbers in zip(found.values(), equations, strict=True):
            for name, number in numbers.items():
                lists.setdefault(name, []).append(number)
    return {"counts": list(_counts(settings)), **{equation: dict(lists) for equation, lists in found.items()}}


def _equation_11(problem: Problem, paths: list[Tensor], settings: Quadratic) -> dict[str, JSON]:
    flow = closed_path(problem)
    errors = [_difference(path, flow) for path in paths]
    steps = zip(paths, settings.step_sizes, strict=True)
    return {
        "error": [*errors],
        "order": _slope(settings.step_sizes, errors),
        "extrapolated": _difference(_extrapolated(paths), flow),
        "against_descent": max(_difference(path, closed_path(problem, step)) for path, step in steps),
    }


def _equation_12(problem: Problem, path: Tensor, settings: Quadratic) -> dict[str, JSON]:
    average, diagonal = average_path(problem, settings.sigma), problem.hessian.diagonal()
    errors = []
    for count in _counts(settings):
        means = path[: len(path) // count * count].view(-1, count, path.shape[1]).mean(1)
        errors.append(float((means - average).square().mean().sqrt() / average.square().mean().sqrt()))
    return {
        "error": [*errors],
        "expected": [expected_error(problem, settings.sigma, count) for count in _counts(settings)],
        "slope": _slope(_counts(settings), errors),
        "correlation": correlation(path.mean(0), diagonal),
        "correlation_of_one_start": float(torch.tensor([correlation(row, diagonal) for row in path]).median()),
        "predicted": average.tolist(),
        "path": path.mean(0).tolist(),
    }


def _equation_13(problem: Problem, omegas: list[Tensor], settings: Quadratic) -> dict[str, JSON]:
    half = problem.hessian.diagonal() / 2
    errors = [_relative(omega, half) for omega in omegas]
    return {
        "error": [*errors],
        "order": _slope(settings.step_sizes, errors),
        "extrapolated": _relative(_extrapolated(omegas), half),
        "half_curvature": half.tolist(),
        "omega": omegas[-1][0].tolist(),
    }


def _equation_14(problem: Problem, paths: list[Tensor], omegas: list[Tensor]) -> dict[str, JSON]:
    """Compare with ``1/2 d^2 H_kk`` for the path, and with half the eigenvalue, the same for each k, for omega.

    All movement is along the one eigenvector, so that its square at synapse k is ``d^2 u_k^2``: in proportion to H_kk,
    as the path is. Omega, the one over the other, knows nothing of the diagonal.
    """
    half = problem.hessian.diagonal() / 2
    squared = ((problem.start - problem.target) @ problem.basis[:, 0]).square()[:, None]
    eigenvalue = float(problem.eigenvalues[0])
    return {
        "path_error": [_relative(path / squared, half) for path in paths],
        "path_extrapolated": _relative(_extrapolated(paths) / squared, half),
        "omega_error": [_relative(omega, torch.full_like(half, eigenvalue / 2)) for omega in omegas],
        "omega_extrapolated": _relative(_extrapolated(omegas), torch.full_like(half, eigenvalue / 2)),
        # Of each start, largest less smallest omega over their mean; the worst start.
        "omega_spread": float(((omegas[-1].amax(1) - omegas[-1].amin(1)) / omegas[-1].mean(1)).max()),
        "eigenvalue": eigenvalue,
        "half_curvature": half.tolist(),
        "path_over_squared_distance": (paths[-1] / squared)[0].tolist(),
        "omega": omegas[-1][0].tolist(),
    }


def _counts(settings: Quadratic) -> tuple[int, ...]:
    """Powers of two, up to all starting points."""
    return tuple(2**i for i in range(settings.initial_conditions.bit_length()))


def _extrapolated(values: list[Tensor]) -> Tensor:
    """What the last two, of a step and its half, say of a step of zero, if the error is proportional to the step."""
    return 2 * values[-1] - values[-2]


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b) / b).abs().max())


def _slope(x: tuple[float, ...], y: list[float]) -> float:
    """The exponent p of the power law y ~ x^p that fits best, by least squares on logarithms."""
    log_x, log_y = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    log_x -= log_x.mean()
    return float((log_x @ log_y) / (log_x @ log_x))


QUADRATIC = Study(
    name="quadratic",
    title="A quadratic loss: the synapses against the paper's equations",
    what="path and omega where both are known in closed form",
    source="section 4",
    settings=Quadratic(),
    quick=Quadratic(seeds=1, dimension=10, initial_conditions=512, step_sizes=(0.08, 0.04)),
    compute=compute,
)
