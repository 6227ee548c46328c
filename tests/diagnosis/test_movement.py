"""The sample of numbers that steps leave where they were, against all numbers of all steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operations import Ops
from torch import Tensor, nn

from synaptic_intelligence.diagnosis.movement import EVERY, NUMBERS, Movement, Row, _places, _spread

CPU = torch.device("cpu")


def advance(movement: Movement) -> None:
    """Take steps of nothing, until the next one is looked at."""
    while not movement.due:
        movement.after()


def look(
    movement: Movement, rows: list[Row], move: Callable[[], Any] = lambda: None, skipped: Tensor | None = None
) -> None:
    """Take one step that is looked at."""
    advance(movement)
    movement.before(rows)
    move()
    movement.after(skipped)


def share(movement: Movement) -> float | None:
    of_all, _ = movement.counts()
    return of_all.share


def shares(dtype: torch.dtype, steps: int) -> tuple[float, float, float]:
    """Train, and return the share of numbers that did not move.

    Returns:
        Of all numbers in all steps; of the sample; and the standard error of a sample as large as that, which is
        binomial in each parameter.
    """
    model = nn.Sequential(
        nn.Linear(20, 48), nn.Tanh(), nn.LayerNorm(48), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4)
    )
    parameters = list(model.to(dtype).parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    movement = Movement()
    driven, still = torch.zeros(len(parameters)), torch.zeros(len(parameters))
    for step in range(-20, steps):  # the first steps of an Adam without moments are of other sizes than the rest
        x = torch.randn(32, 20, dtype=dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(x).float(), x[:, :4].argmax(dim=1)).backward()
        if step < 0:
            optimizer.step()
            continue
        before = [p.detach().clone() for p in parameters]
        if movement.due:
            movement.before([(p, p.grad, 1e-4) for p in parameters])
        optimizer.step()
        movement.after()
        for i, (p, was) in enumerate(zip(parameters, before, strict=True)):
            pushed = torch.zeros_like(p) != (torch.zeros_like(p) if p.grad is None else p.grad)
            driven[i] += pushed.sum()
            still[i] += (pushed & (p == was)).sum()
    found = share(movement)
    assert found is not None
    of_each, weight = still / driven, driven / driven.sum()
    looked_at = NUMBERS * math.ceil(steps / EVERY)
    error = (weight.square() * of_each * (1 - of_each) / looked_at).sum().sqrt()
    return float(still.sum() / driven.sum()), found, float(error)


def test_bfloat16_at_a_small_rate_is_mostly_still_and_the_sample_tells_within_its_error() -> None:
    exact, sampled, error = shares(torch.bfloat16, 320)
    assert exact > 0.5
    assert abs(sampled - exact) < 3 * error < 0.1


def test_float32_at_the_same_rate_moves() -> None:
    exact, sampled, _ = shares(torch.float32, 129)
    assert exact < 0.001
    assert sampled < 0.01


def test_one_step_of_64_looks_at_the_parameters_or_does_anything() -> None:
    movement, p, looked_at = Movement(), torch.ones(10), []
    for step in range(64 * EVERY):
        with Ops() as ops:
            if movement.due:
                looked_at.append(step)
                movement.before([(p, torch.ones(10), 0.1)])
            movement.after()
        assert bool(ops.seen) == (step in looked_at)
    assert [step // EVERY for step in looked_at] == list(range(64))
    assert looked_at[0] > 0
    assert sorted(step % EVERY for step in looked_at) == list(range(EVERY))
    assert share(movement) == 1.0


@pytest.mark.parametrize("length", [7, 32, 50, 64, 128])
def test_tasks_of_any_length_are_not_looked_at_in_their_first_step_alone(length: int) -> None:
    movement, places = Movement(), []
    for _ in range(1000 // length + 4):
        for step in range(length):
            if movement.due:
                places.append(step / length)
            movement.after()
        movement.end_task()
    assert len(places) >= 10
    assert 0.25 < sum(places) / len(places) < 0.75


def test_a_sample_does_not_wait_for_the_device() -> None:
    movement = Movement()
    rows: list[Row] = [
        (torch.ones(300, 7).T, torch.ones(7, 300), 0.1),
        (torch.ones(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16), 0.1),
        (torch.ones(3), None, 0.1),
    ]
    for _ in range(2):
        advance(movement)
        with Ops() as ops:
            movement.before(rows)
            movement.after(torch.zeros(1))
        assert ops.seen
        assert [
            op for op in ops.seen if any(read in op for read in ("_local_scalar", "nonzero", "equal.", "is_"))
        ] == []
    assert share(movement) == 1.0


def test_what_has_no_gradient_or_none_that_is_finite_does_not_count() -> None:
    movement, p = Movement(), torch.zeros(8)
    gradient = torch.tensor([0.0, math.nan, math.inf, 1.0, 1.0, -1.0, 0.0, 0.0])

    def move() -> None:
        p[0] = p[3] = 1.0

    look(movement, [(p, gradient, 0.1), (torch.zeros(5), None, 0.1), (torch.zeros(0), torch.zeros(0), 0.1)], move)
    assert share(movement) == pytest.approx(2 / 3)  # numbers 4 and 5, of 3, 4 and 5


@pytest.mark.parametrize("zero", [0.0, 0, torch.tensor(0.0), torch.zeros(1)])
def test_parameters_at_rate_zero_do_not_count(zero: float | Tensor) -> None:
    movement, p = Movement(), torch.zeros(8)
    look(movement, [(torch.zeros(100), torch.ones(100), zero)])
    assert movement.counts()[0] == (0.0, 0.0, 0.0)
    rates: list[float | Tensor | None] = [0.1, torch.tensor(0.1), None]
    look(movement, [(torch.zeros(100), torch.ones(100), zero), *((p, torch.ones(8), rate) for rate in rates)])
    assert movement.counts()[0] == (24.0, 24.0, 1.0)


def test_a_number_that_became_nan_has_moved() -> None:
    movement, p = Movement(), torch.zeros(2)
    look(movement, [(p, torch.ones(2), 0.1)], lambda: p[:1].fill_(math.nan))
    assert share(movement) == 0.5


def test_a_step_that_a_gradscaler_skipped_is_no_sample() -> None:
    movement, p = Movement(), torch.zeros(4)
    for _ in range(3):
        look(movement, [(p, torch.ones(4), 0.1)], skipped=torch.ones(1))
        assert share(movement) is None
        assert movement.counts()[0].samples == 0
    for count in (1, 2):
        look(movement, [(p, torch.ones(4), 0.1)], skipped=torch.zeros(1))
        assert movement.counts()[0] == (4.0 * count, 4.0 * count, count)
        assert movement.counts()[0].enough == (count == 2)


def test_a_step_that_raised_half_way_is_looked_at_once_more() -> None:
    movement, p = Movement(), torch.zeros(4)
    advance(movement)
    movement.before([(p, torch.ones(4), 0.1)])
    look(movement, [(p, torch.ones(4), 0.1)], lambda: p.fill_(1.0))
    assert movement.counts()[0] == (4.0, 0.0, 1.0)


def test_one_step_is_too_little_to_judge_by_and_short_tasks_add_up() -> None:
    movement, p = Movement(), torch.zeros(4)
    assert share(movement) is None
    look(movement, [(p, torch.ones(4), 0.1)])
    assert not movement.counts()[0].enough
    movement.end_task()
    assert share(movement) == 1.0
    look(movement, [(p, torch.ones(4), 0.1)])
    assert movement.counts()[0].enough
    movement.end_task()
    assert movement.counts() == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def test_parameters_of_other_strides_and_dtypes_are_compared_number_by_number() -> None:
    p = torch.zeros(40, 30, dtype=torch.float64).T
    q, r = torch.zeros(8, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)
    movement = Movement()
    rows: list[Row] = [(each, torch.ones(each.shape, dtype=each.dtype), 0.1) for each in (p, q, r)]

    def move() -> None:
        p.add_(1)
        r.add_(1)

    look(movement, rows, move)
    of_all, coarse = movement.counts()
    assert (of_all.driven, of_all.still) == (1210.0, 8.0)
    assert (coarse.driven, coarse.still, coarse.samples) == (10.0, 8.0, 1.0)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 1000, 256 * 784, 4096 * 11008, 2**33])
def test_the_places_are_in_the_parameter_one_in_each_64th(count: int) -> None:
    for turn in (0, 1, 5, 1023, 1024):
        places = _places(count, _spread(turn, CPU)).tolist()
        assert len(places) == NUMBERS
        assert all(i * count // NUMBERS <= at < (i + 1) * count / NUMBERS for i, at in enumerate(places))


@pytest.mark.parametrize("shape", [(256, 784), (512, 512), (144 * 64, 100), (89 * 64, 512), (4096, 4096), (64, 1000)])
def test_the_places_are_spread_over_the_columns_too(shape: tuple[int, int]) -> None:
    rows, columns = shape
    seen = torch.cat([_places(rows * columns, _spread(turn, CPU)) for turn in range(4)]) % columns
    # Each eighth of the columns has about an eighth of the 256 places: by chance 32, and 4.5 standard deviations.
    each = torch.histc(seen.double(), bins=8, min=0, max=columns)
    assert float((each - 32).abs().max()) <= 4.5 * math.sqrt(32 * 7 / 8)
    assert len(set(seen.tolist())) > 60
