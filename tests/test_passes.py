"""The two passes around a step: the kernel, torch's foreach and the plain equations give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from oracle import assert_close, relative_difference
from torch import Tensor, nn
from twins import count_rules, needs_kernel, no_kernel

import synaptic_intelligence as si
from synaptic_intelligence import passes
from synaptic_intelligence.functional import path_increment, surrogate_gradient
from synaptic_intelligence.native import Row
from synaptic_intelligence.passes import pass_after, pass_before

SHAPES = [(), (0,), (1,), (63,), (8, 16), (5, 1)]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
each_form = pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernel), False])


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def close(a: Tensor | None, b: Tensor) -> bool:
    assert a is not None
    return a.shape == b.shape and (not a.numel() or relative_difference(a, b) <= TOLERANCE[a.dtype])


def do(kernel: bool, what: Callable[[], Tensor | None]) -> tuple[Tensor | None, int]:
    """Do it with or without the kernel, and return how often that was called too."""
    with count_rules() as called:
        if kernel:
            return what(), len(called)
        with no_kernel():
            return what(), len(called)


@each_form
@each_dtype
@pytest.mark.parametrize("integrates", [True, False])
@pytest.mark.parametrize("pulls", [True, False])
@pytest.mark.parametrize("c", [0.7, -0.7])
@pytest.mark.parametrize("coarse", [True, False])
def test_before_is_the_plain_equation(
    kernel: bool, dtype: torch.dtype, integrates: bool, pulls: bool, c: float, coarse: bool
) -> None:
    rows: list[Row] = []
    for shape in SHAPES:
        for with_gradient in (True, False):
            p, anchor, omega = draw(shape, dtype), draw(shape, dtype), draw(shape, dtype).abs()
            gradient = draw(shape, dtype) if with_gradient else None
            used, before = torch.full_like(p, torch.nan), torch.full_like(p, torch.nan)
            held = omega.bfloat16() if coarse else omega
            ways = (None, held) if coarse else (held, None)
            wide, narrow = ways if pulls else (None, None)
            rows.append((p, gradient, anchor if pulls else None, wide, used, before, narrow))
    kept = [[None if t is None else t.clone() for t in (*row[:4], row[6])] for row in rows]
    _, calls = do(kernel, lambda: pass_before(rows, c, integrates=integrates))
    assert calls == int(kernel)
    for row, copies in zip(rows, kept, strict=True):
        value, task, near, wide, given, old, narrow = row
        importance = wide if narrow is None else narrow.to(dtype)
        assert value is not None
        expected = torch.zeros_like(value) if task is None else task
        if near is not None and importance is not None:
            expected = expected + surrogate_gradient(value, near, importance, c)
        assert close(given, expected)
        if integrates:
            assert old is not None
            assert torch.equal(old, value)
        for tensor, copy in zip((*row[:4], row[6]), copies, strict=True):
            assert (tensor is None and copy is None) or (
                tensor is not None and copy is not None and torch.equal(tensor, copy)
            )


@each_form
@each_dtype
@pytest.mark.parametrize("maximize", [True, False])
def test_after_is_the_plain_equation(kernel: bool, dtype: torch.dtype, maximize: bool) -> None:
    rows: list[Row] = [tuple(draw(shape, dtype) for _ in range(4)) for shape in SHAPES]
    expected = []
    for after, gradient, path, before in rows:
        assert after is not None
        assert gradient is not None
        assert path is not None
        assert before is not None
        expected.append(path + (-1 if maximize else 1) * path_increment(gradient, after - before))
    found, calls = do(kernel, lambda: pass_after(rows, maximize=maximize))
    assert calls == int(kernel)
    assert found is not None
    assert int(found) == 0
    assert all(close(row[2], value) for row, value in zip(rows, expected, strict=True))


@each_form
@each_dtype
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), "large"])
def test_what_is_not_finite_adds_nothing_and_is_told(kernel: bool, dtype: torch.dtype, bad: float | str) -> None:
    most = torch.finfo(dtype).max
    after, gradient, path, before = (torch.full((70,), value, dtype=dtype) for value in (0.0, 2.0, 1.0, 1.0))
    if isinstance(bad, str):  # each is finite, and the product is not
        gradient[66], before[66] = most, 4.0
    else:
        gradient[66] = bad
    found, _ = do(kernel, lambda: pass_after([(after, gradient, path, before)], maximize=False))
    assert found is not None
    assert int(found) == 1
    assert path[66] == 1
    assert torch.equal(path[:66], torch.full((66,), 3.0, dtype=dtype))


@needs_kernel
def test_rows_that_the_kernel_cannot_walk_over_go_beside_those_it_can() -> None:
    """Other strides, a gradient wider than its parameter, low precision: the same numbers, by the other way."""
    fast: Row = tuple(torch.full((4, 4), value) for value in (0.0, 2.0, 1.0, 1.0))
    turned: Row = tuple(torch.full((4, 4), value) for value in (0.0, 2.0, 1.0, 1.0))
    turned = (turned[0], torch.arange(16.0).reshape(4, 4).T, *turned[2:])
    low: Row = (torch.zeros(3).bfloat16(), torch.full((3,), 2.0), torch.ones(3), torch.ones(3))
    with count_rules() as called:
        overflow = pass_after([fast, turned, low], maximize=False)
    assert called == ["integrate_all"]
    assert int(overflow) == 0
    assert fast[2] is not None
    assert turned[2] is not None
    assert low[2] is not None
    assert torch.equal(fast[2], torch.full((4, 4), 3.0))
    assert torch.equal(turned[2], 1 + torch.arange(16.0).reshape(4, 4).T)
    assert low[2].tolist() == [3.0] * 3
    gradient = torch.arange(16.0).reshape(4, 4).T
    used, before = torch.empty(4, 4), torch.empty(4, 4)
    one = torch.ones(4, 4)
    for importance in ((one, None), (None, one.bfloat16())):
        used.fill_(torch.nan)
        before.fill_(torch.nan)
        wide, narrow = importance
        pass_before([(one, gradient, torch.zeros(4, 4), wide, used, before, narrow)], 0.5, integrates=True)
        assert torch.equal(used, gradient + 1)
        assert torch.equal(before, one)


def test_an_overflow_is_told_from_either_part() -> None:
    def row(gradient: Tensor) -> Row:
        return torch.zeros(2, 2), gradient, torch.zeros(2, 2), torch.ones(2, 2)

    good, bad = torch.ones(2, 2), torch.full((2, 2), torch.inf)
    for first, second in ((good, bad.T), (bad, good.T), (good, torch.tensor([[1.0, 2.0], [torch.nan, 4.0]]).T)):
        assert int(pass_after([row(first), row(second)], maximize=False)) == 1
    assert int(pass_after([row(good), row(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)], maximize=False)) == 0


@needs_kernel
@pytest.mark.parametrize("begun", [0, 1], ids=["before the first step", "between two tasks"])
def test_a_network_that_becomes_channels_last_keeps_the_kernel(begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("torch's foreach took the pass")

    for name in ("add_surrogate_gradients_", "integrate_paths_"):
        monkeypatch.setattr(passes, name, slow)
    model, twin = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).double() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    pairs = []
    for network in (model, twin):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        synapses = si.SynapticIntelligence(network.named_parameters(), optimizer, c=0.5, xi=0.1)
        pairs.append((network, optimizer, synapses))
    for task in range(3):
        if task == begun:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for network, optimizer, synapses in pairs:
            for step in range(4):
                optimizer.zero_grad()
                x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(9 * task + step)).double()
                (network(x) - task).square().mean().backward()
                optimizer.step()
            synapses.consolidate()
    (_, _, synapses), (_, _, others) = pairs
    assert synapses.omega["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), dict(others.omega), 1e-12)
