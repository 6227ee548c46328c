"""The sample of numbers that steps leave where they were, against all numbers of all steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from synaptic_intelligence.movement import EVERY, NUMBERS, Movement, _places, _spread

CPU = torch.device("cpu")


class Ops(TorchDispatchMode):
    """Notes each operation that is run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


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
        movement.before(step, [(p, p.grad) for p in parameters])
        optimizer.step()
        movement.after()
        for i, (p, was) in enumerate(zip(parameters, before, strict=True)):
            pushed = torch.zeros_like(p) != (torch.zeros_like(p) if p.grad is None else p.grad)
            driven[i] += pushed.sum()
            still[i] += (pushed & (p == was)).sum()
    found = movement.still_share()
    assert found is not None
    share, weight = still / driven, driven / driven.sum()
    looked_at = NUMBERS * math.ceil(steps / EVERY)
    error = (weight.square() * share * (1 - share) / looked_at).sum().sqrt()
    return float(still.sum() / driven.sum()), found, float(error)


def test_bfloat16_at_a_small_rate_is_mostly_still_and_the_sample_tells_within_its_error() -> None:
    exact, sampled, error = shares(torch.bfloat16, 320)
    assert exact > 0.5
    assert abs(sampled - exact) < 3 * error < 0.1


def test_float32_at_the_same_rate_moves() -> None:
    exact, sampled, _ = shares(torch.float32, 129)
    assert exact < 0.001
    assert sampled < 0.01


def test_only_every_64th_step_looks_at_the_parameters_or_does_anything() -> None:
    movement, p, walked = Movement(), torch.ones(10), []

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        walked.append(step)
        yield p, torch.ones(10)

    for step in range(130):
        with Ops() as ops:
            movement.before(step, rows())
            movement.after()
        assert bool(ops.seen) == (step % EVERY == 0)
    assert walked == [0, 64, 128]
    assert movement.still_share() == 1.0


def test_a_sample_does_not_wait_for_the_device() -> None:
    movement = Movement()
    rows = [(torch.ones(300, 7).T, torch.ones(7, 300)), (torch.ones(3), torch.ones(3)), (torch.ones(3), None)]
    with Ops() as ops:
        for step in (0, 64):
            movement.before(step, rows)
            movement.after(torch.zeros(1))
    assert ops.seen
    assert [op for op in ops.seen if any(read in op for read in ("_local_scalar", "nonzero", "equal.", "is_"))] == []
    assert movement.still_share() == 1.0


def test_what_has_no_gradient_or_none_that_is_finite_does_not_count() -> None:
    movement, p = Movement(), torch.zeros(8)
    gradient = torch.tensor([0.0, math.nan, math.inf, 1.0, 1.0, -1.0, 0.0, 0.0])
    movement.before(0, [(p, gradient), (torch.zeros(5), None), (torch.zeros(0), torch.zeros(0))])
    p[0] = p[3] = 1.0
    movement.after()
    assert movement.still_share() == pytest.approx(2 / 3)  # numbers 4 and 5, of 3, 4 and 5


def test_a_number_that_became_nan_has_moved() -> None:
    movement, p = Movement(), torch.zeros(2)
    movement.before(0, [(p, torch.ones(2))])
    p[0] = math.nan
    movement.after()
    assert movement.still_share() == 0.5


def test_a_step_that_a_gradscaler_skipped_does_not_count() -> None:
    movement, p = Movement(), torch.zeros(4)
    movement.before(0, [(p, torch.ones(4))])
    movement.after(torch.ones(1))
    assert movement.still_share() is None
    movement.before(64, [(p, torch.ones(4))])
    movement.after(torch.zeros(1))
    assert movement.still_share() == 1.0


def test_a_step_that_raised_half_way_is_forgotten() -> None:
    movement, p = Movement(), torch.zeros(4)
    movement.before(0, [(p, torch.ones(4))])
    movement.before(1, [(p, torch.ones(4))])
    movement.after()
    assert movement.still_share() is None


def test_one_step_is_too_little_to_judge_by_and_short_tasks_add_up() -> None:
    movement, p = Movement(), torch.zeros(4)

    def step(count: int) -> None:
        movement.before(count, [(p, torch.ones(4))])
        movement.after()

    assert movement.still_share() is None
    step(0)
    assert not movement.enough
    movement.end_task()
    assert movement.still_share() == 1.0
    step(0)
    assert movement.enough
    movement.end_task()
    assert not movement.enough
    assert movement.still_share() is None


def test_parameters_of_other_strides_and_dtypes_are_compared_number_by_number() -> None:
    p = torch.zeros(40, 30, dtype=torch.float64).T
    q = torch.zeros(8, dtype=torch.bfloat16)
    movement = Movement()
    movement.before(0, [(p, torch.ones(30, 40, dtype=torch.float64)), (q, torch.ones(8, dtype=torch.bfloat16))])
    p += 1
    movement.after()
    assert movement.still_share() == pytest.approx(8 / (8 + 1200))


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
