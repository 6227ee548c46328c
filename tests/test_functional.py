"""The functions in place, on lists of tensors, against their plain twins, and these against numbers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from synaptic_intelligence.functional import (
    consolidated_omega,
    path_increment,
    surrogate_gradient,
    surrogate_loss,
)
from synaptic_intelligence.in_place import add_surrogate_gradients_, consolidated_omega_, integrate_paths_

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (3, 4), (0, 2), (2, 3, 1, 4)]
# The dtype of a parameter and its gradient, and that of its path, omega and anchor.
DTYPES = [
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def randoms(dtypes: list[torch.dtype], *, positive: bool = False) -> list[Tensor]:
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    return [(t.abs() if positive else t).to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        if e.numel():
            assert float((f.double() - e.double()).abs().max()) <= tolerance * float(e.double().abs().max())


def mixed(index: int) -> tuple[list[torch.dtype], list[torch.dtype]]:
    """One pair of dtypes for every shape; the last index takes each in turn."""
    pairs = [DTYPES[(position if index == len(DTYPES) else index) % len(DTYPES)] for position in range(len(SHAPES))]
    return [narrow for narrow, _ in pairs], [wide for _, wide in pairs]


each_dtype = pytest.mark.parametrize(
    "index", range(len(DTYPES) + 1), ids=["float64", "float32", "bfloat16", "float16", "mixed"]
)


@each_dtype
@pytest.mark.parametrize("c", [0.3, -0.3, 0.0])
def test_add_surrogate_gradients_is_the_plain_gradient_added(index: int, c: float) -> None:
    narrow, wide = mixed(index)
    parameters, gradients = randoms(narrow), randoms(narrow)
    anchors, omegas = randoms(wide), randoms(wide, positive=True)
    work = [torch.full_like(t, torch.nan) for t in anchors]  # whatever was there must not matter
    inputs = [t.clone() for t in (*parameters, *anchors, *omegas)]
    expected = [
        g.double() + surrogate_gradient(p.double(), a.double(), o.double(), c)
        for g, p, a, o in zip(gradients, parameters, anchors, omegas, strict=True)
    ]
    add_surrogate_gradients_(gradients, parameters, anchors, omegas, c, work)
    assert [g.dtype for g in gradients] == narrow
    for dtype in set(narrow):
        chosen = [i for i, d in enumerate(narrow) if d == dtype]
        assert_same([gradients[i] for i in chosen], [expected[i] for i in chosen], TOLERANCE[dtype])
    assert all(torch.equal(t, before) for t, before in zip((*parameters, *anchors, *omegas), inputs, strict=True))


@each_dtype
@pytest.mark.parametrize("maximize", [False, True])
def test_integrate_paths_is_the_plain_increment_added(index: int, maximize: bool) -> None:
    narrow, wide = mixed(index)
    paths, gradients, after = randoms(wide), randoms(narrow), randoms(narrow)
    before = [t.to(w) for t, w in zip(randoms(narrow), wide, strict=True)]
    inputs = [t.clone() for t in (*gradients, *after)]
    sign = -1 if maximize else 1  # the loss is minus the objective, whose gradients are given
    expected = [
        p.double() + path_increment(sign * g.double(), a.double() - b.double())
        for p, g, b, a in zip(paths, gradients, before, after, strict=True)
    ]
    flag = integrate_paths_(paths, gradients, before, after, maximize=maximize)
    assert (flag.shape, int(flag)) == ((), 0)
    assert [p.dtype for p in paths] == wide
    for dtype in set(wide):
        chosen = [i for i, d in enumerate(wide) if d == dtype]
        assert_same([paths[i] for i in chosen], [expected[i] for i in chosen], TOLERANCE[dtype])
    assert all(torch.equal(t, old) for t, old in zip((*gradients, *after), inputs, strict=True))


def test_a_step_of_low_precision_parameters_is_not_rounded_to_it() -> None:
    # bf16 has 8 bits: 1 + 2^-7 is the next number after 1. The difference from a float32 anchor needs more.
    p = [torch.tensor([1.0], dtype=torch.bfloat16)]
    gradient = [torch.zeros(1, dtype=torch.float32)]
    anchor, omega = [torch.tensor([1.0 + 2**-20])], [torch.tensor([2.0**20])]
    add_surrogate_gradients_(gradient, p, anchor, omega, 0.5, [torch.empty(1)])
    assert gradient[0].item() == -1.0


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("gradient", "movement"),
    [
        (torch.inf, 1.0),
        (-torch.inf, 1.0),
        (torch.nan, 1.0),
        (torch.inf, 0.0),
        (1.0, torch.inf),
        (1.0, torch.nan),
        (1e30, 1e30),  # each is finite, their product in float32 is not
    ],
)
def test_what_is_not_finite_adds_nothing_and_is_told(gradient: float, movement: float, maximize: bool) -> None:
    paths = [torch.tensor([10.0, 20.0]), torch.tensor(30.0)]
    gradients = [torch.tensor([gradient, 2.0]), torch.tensor(1.0)]
    after = [torch.tensor([movement, 1.0]), torch.tensor(-1.0)]
    before = [torch.zeros(2), torch.zeros(())]
    flag = integrate_paths_(paths, gradients, before, after, maximize=maximize)
    assert (flag.shape, int(flag)) == ((), 1)
    sign = -1 if maximize else 1
    assert paths[0].tolist() == [10.0, 20.0 - sign * 2.0]
    assert paths[1].item() == 30.0 + sign * 1.0


def test_infinities_of_both_signs_do_not_hide_each_other() -> None:
    path = [torch.zeros(2)]
    flag = integrate_paths_(path, [torch.tensor([torch.inf, -torch.inf])], [torch.ones(2)], [torch.zeros(2)])
    assert int(flag) == 1
    assert path[0].tolist() == [0.0, 0.0]


def test_large_increments_that_are_finite_are_not_told_as_if_they_were_not() -> None:
    path = [torch.zeros(2)]
    flag = integrate_paths_(path, [torch.full((2,), 3e38)], [torch.ones(2)], [torch.zeros(2)])
    assert path[0].tolist() == pytest.approx([3e38, 3e38])
    assert int(flag) == 0


def test_an_empty_tensor_alone_is_fine() -> None:
    path, empty = [torch.zeros(0)], [torch.zeros(0)]
    assert int(integrate_paths_(path, empty, [torch.zeros(0)], [torch.zeros(0)])) == 0
    add_surrogate_gradients_([torch.zeros(0)], empty, empty, empty, 1.0, [torch.zeros(0)])


def test_path_increment_by_hand() -> None:
    gradient, delta = torch.tensor([2.0, -3.0, 0.0, 1.0]), torch.tensor([-0.5, -1.0, 7.0, 0.25])
    assert path_increment(gradient, delta).tolist() == [1.0, -3.0, 0.0, -0.25]


def test_consolidated_omega_in_place_is_the_same_to_the_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        omega, path, moved = (torch.randn(999, dtype=torch.float64).to(dtype) for _ in range(3))
        for held in (omega.abs(), omega.abs().bfloat16()):
            expected = consolidated_omega(held, path, moved, xi=0.1)
            work = moved.clone()
            assert consolidated_omega_(held, path, work, xi=0.1) is work
            assert torch.equal(work, expected)


def test_consolidated_omega_by_hand() -> None:
    omega, path = torch.tensor([1.0, 1.0, 0.0, 2.0]), torch.tensor([6.0, -6.0, -1.0, -6.0])
    moved = torch.tensor([1.0, -1.0, 0.0, 1.0])
    # 1 + 6 / 2; 1 - 6 / 2 < 0; 0 - 1 / 1 < 0; 2 - 6 / 2 < 0; and with twice the damping 1 + 6 / 3, 1 - 2, ..., 2 - 2
    assert consolidated_omega(omega, path, moved, xi=1.0).tolist() == [4.0, 0.0, 0.0, 0.0]
    assert consolidated_omega(omega, path, moved, xi=2.0).tolist() == [3.0, 0.0, 0.0, 0.0]
    assert consolidated_omega(omega, path, moved, xi=5.0).tolist() == [2.0, 0.0, 0.0, 1.0]


def test_the_surrogate_gradient_is_the_derivative_of_the_surrogate_loss() -> None:
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    anchor, omega = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(surrogate_loss(p, anchor, omega, c=0.7), p)
    torch.testing.assert_close(surrogate_gradient(p.detach(), anchor, omega, c=0.7), gradient, rtol=1e-12, atol=0)


def test_the_surrogate_loss_has_no_factor_one_half() -> None:
    # c * omega * (p - anchor)^2 = 0.5 * (2 * 9 + 4 * 1)
    p, anchor, omega = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 4.0])
    assert surrogate_loss(p, anchor, omega, c=0.5).item() == 11.0
    assert surrogate_loss(p[:0], anchor[:0], omega[:0], c=0.5).item() == 0.0
