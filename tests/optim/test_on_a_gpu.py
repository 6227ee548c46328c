"""On a GPU: the forms agree, no step waits for the device, and networks at once are those one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from oracle import assert_close
from torch import nn
from torch.nn.functional import cross_entropy
from twins import OPTIMIZERS, XI, C, Layout, Twins, compiled_with, inside, label

import synaptic_intelligence as si
from synaptic_intelligence.experiments.plan import Plan

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

ONCE = [("SGD", {"lr": 0.05, "momentum": 0.9}), ("Adam", {"lr": 0.01, "amsgrad": True}), ("AdamW", {"lr": 0.01})]
# A fused Adam counts its steps on the device, and so is refused.
COMPILED = [(name, options) for name, options in OPTIMIZERS if name == "SGD" or not options.get("fused")]
each_option = pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=label)
each_optimizer = pytest.mark.parametrize(("name", "options"), ONCE, ids=label)


def layouts(dtype: torch.dtype) -> list[Layout]:
    shapes = ((7, 9), (4, 3, 3, 2), (5, 1), (), (70001,))
    return [partial(torch.randn, shape, device=DEVICE, dtype=dtype) for shape in shapes]


@each_option
def test_inside_is_around(name: str, options: dict[str, Any]) -> None:
    twins = Twins(name, layouts(torch.float64), **options)
    twins.run()
    twins.assert_equal()


@pytest.mark.parametrize(("name", "options"), COMPILED, ids=label)
def test_compiled_is_around(name: str, options: dict[str, Any]) -> None:
    with compiled_with("inductor") as runs:
        twins = Twins(name, layouts(torch.float64), **options)
        twins.run()
    twins.assert_equal()
    assert len(runs) == 2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
@each_optimizer
def test_float32_with_wide_and_narrow_omega(name: str, options: dict[str, Any], compiled: bool, coarse: bool) -> None:
    with compiled_with("inductor") if compiled else nullcontext():
        twins = Twins(name, layouts(torch.float32), omega_dtype=torch.bfloat16 if coarse else None, **options)
        twins.run()
    # Narrow, omega may be rounded to the place beside, and then pulls by so much more or less.
    twins.assert_equal(*((2**-7, 2**-7) if coarse else (1e-5, 1e-4)))


@each_optimizer
def test_the_device_has_the_numbers_of_the_cpu(name: str, options: dict[str, Any]) -> None:
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().to(device)
        optimizer = inside(name, model.named_parameters(), **options)
        for task in range(3):
            for step in range(10):
                generator = torch.Generator().manual_seed(100 * task + step)
                x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
                y = torch.randint(3, (16,), generator=generator)
                optimizer.zero_grad()
                cross_entropy(model(x.to(device)), y.to(device)).backward()
                optimizer.step()
            optimizer.consolidate()
        found.append((model.cpu(), {key: omega.cpu() for key, omega in optimizer.synapses.omega.items()}))
    (a, omega_a), (b, omega_b) = found
    assert_close(b.named_parameters(), dict(a.named_parameters()), 1e-9)
    assert_close(omega_b.items(), omega_a, 1e-9)


@contextmanager
def no_waiting() -> Iterator[None]:
    """What makes the CPU wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("form", ["hooks", "inside", "compiled"])
def test_no_step_waits_for_the_device(form: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(DEVICE)
    x, y = torch.randn(16, 6, device=DEVICE), torch.randint(3, (16,), device=DEVICE)
    optimizer: torch.optim.Optimizer
    synapses: Any
    if form == "hooks":
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    else:
        optimizer = synapses = inside("Adam", model.named_parameters(), compiled=form == "compiled")

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    for _ in range(2):
        train(5)  # what is made and compiled at first may wait
        with no_waiting():
            train(200)
        synapses.consolidate()


def test_networks_at_once_are_those_one_by_one(tmp_path: Path) -> None:
    runs = []
    for device in ("cpu", DEVICE):
        plan = Plan(tiny.TINY, tiny.SETTINGS, device=device, threads=1, data_dir=None, out=tmp_path / device)
        runs.append(tiny.start(plan))
    for one, other in zip(runs[0].runs, runs[1].runs, strict=True):
        assert (one.seed, one.c) == (other.seed, other.c)
        # An image near the boundary may fall to the other side in float32.
        assert torch.tensor(one.accuracy).sub(torch.tensor(other.accuracy)).abs().max() <= 0.1
