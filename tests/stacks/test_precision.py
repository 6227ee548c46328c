"""Autocast, GradScaler and parameters of low precision, over three tasks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_difference, same, small_model
from stacks.example import first_task_accuracies, run_example
from stacks.forms import Shadow, each_form, each_name, made, plain_step, train
from stacks.plain import RATE, STEPS, TASKS, Outcome, adam, assert_same, batches, train_plainly
from torch import Tensor, nn

import synaptic_intelligence as si

pytestmark = pytest.mark.stack("mixed precision")

LOW = [torch.bfloat16, torch.float16]


def loss_under_autocast(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype=dtype):
        return F.cross_entropy(model(x), y)


def gradients_of(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype, scale: float = 1.0) -> dict[str, Tensor]:
    """The gradient of the task's loss alone, by a copy of the model that the library knows nothing of."""
    twin = copy.deepcopy(model)
    loss = loss_under_autocast(twin, x, y, dtype) * scale
    found = torch.autograd.grad(loss, list(twin.parameters()))
    return {name: g / scale for (name, _), g in zip(twin.named_parameters(), found, strict=True)}


@each_form
@each_name
@pytest.mark.parametrize("dtype", LOW)
def test_autocast_equals_a_naive_loop_within_1e_6(dtype: torch.dtype, name: str, form: str) -> None:
    """Float32 parameters under autocast: the sums of a loop with clones and the penalty's gradient by hand."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, name, model)
    shadow = Shadow(model, name)

    def step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss_under_autocast(model, x, y, dtype).backward()
        with shadow.step(gradients_of(model, x, y, dtype)):
            optimizer.step()

    def consolidate() -> None:
        synapses.consolidate()
        shadow.consolidate()

    found = train(model, optimizer, synapses, step, consolidate=consolidate)
    assert_same(found, shadow.outcome, weights=1e-6, importance=1e-6)


@each_form
def test_steps_and_consolidation_inside_the_autocast_context_bit_for_bit(form: str) -> None:
    """Autocast around the whole loop body changes nothing in a step, in `consolidate` or in `penalty`."""

    def run(*, wide: bool) -> tuple[Outcome, Tensor]:
        model = small_model(torch.float32)
        optimizer, synapses = made(form, "Adam", model)

        def step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            loss_under_autocast(model, x, y, torch.bfloat16).backward()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=wide):
                optimizer.step()

        def consolidate() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=wide):
                synapses.consolidate()

        found = train(model, optimizer, synapses, step, consolidate=consolidate)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=wide):
            return found, synapses.penalty()

    (wide, penalty), (narrow, expected) = run(wide=True), run(wide=False)
    assert_same(wide, narrow)
    assert float(penalty) == float(expected) > 0


def assert_no_trace(model: nn.Module, synapses: si.Consolidator, step: Any) -> None:
    """Fail unless ``step`` leaves weights, path and the count of steps as they were, bit for bit."""

    def now() -> tuple[list[Tensor], dict[str, Tensor], int]:
        weights = [p.detach().clone() for p in model.parameters()]
        return weights, {name: path.clone() for name, path in synapses.path.items()}, synapses.state_dict()["steps"]

    before = now()
    step()
    assert same(now(), before)


KINDS: dict[str, dict[str, Any]] = {"loops": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


@each_form
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_grad_scaler_and_its_overflow_steps_bit_for_bit(clip: float | None, kind: str, name: str, form: str) -> None:
    """Scales are powers of two, and steps that overflow count as none: the same as the loop without a scaler.

    With clipping the gradients are unscaled first, as torch's documentation has it; without, by the step itself.
    """

    def run(*, scaled: bool) -> Outcome:
        model = small_model(torch.float32)
        optimizer, synapses = made(form, name, model, **KINDS[kind])
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10, growth_interval=5)
        numbers, overflows = iter(range(TASKS * STEPS)), 0

        def attempt(x: Tensor, y: Tensor, spoilt: str = "") -> None:
            optimizer.zero_grad()
            loss = scaler.scale(F.cross_entropy(model(x), y))
            (loss * torch.inf if spoilt == "loss" else loss).backward()
            if spoilt == "gradient":
                gradient = model.get_parameter("2.bias").grad
                assert gradient is not None
                gradient[0] = -torch.inf
            if clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()

        def step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
            nonlocal overflows
            if next(numbers) % 6 == 0 and scaled:
                spoilt = ("loss", "gradient")[overflows % 2]
                assert_no_trace(model, synapses, lambda: attempt(x, y, spoilt))
                overflows += 1
            attempt(x, y)

        found = train(model, optimizer, synapses, step)
        assert overflows == (6 if scaled else 0)
        assert synapses.state_dict()["steps"] == STEPS
        return found

    plain = run(scaled=False)
    assert_same(run(scaled=True), plain)
    if form == "hooks":
        rest = {"lr": RATE, **KINDS[kind]}
        harness = train_plainly(make_optimizer=lambda p: getattr(torch.optim, name)(p, **rest), clip=clip)
        assert_same(plain, harness)


@each_form
@pytest.mark.parametrize("kind", KINDS)
def test_float16_with_a_grad_scaler_equals_a_naive_loop_within_1e_6(kind: str, form: str) -> None:
    """Autocast in float16 whose scale overflows by itself until it fits: the naive sums of the unscaled gradients."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, "Adam", model, **KINDS[kind])
    shadow = Shadow(model, "Adam")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=10)
    overflows = []

    def attempt(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_under_autocast(model, x, y, torch.float16)).backward()
        scaler.step(optimizer)
        scaler.update()

    def step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
        while True:
            gradients = gradients_of(model, x, y, torch.float16, scaler.get_scale())
            if all(bool(g.isfinite().all()) for g in gradients.values()):
                break
            assert_no_trace(model, synapses, lambda: attempt(x, y))
            overflows.append(scaler.get_scale())
        with shadow.step(gradients):
            attempt(x, y)

    def consolidate() -> None:
        synapses.consolidate()
        shadow.consolidate()

    found = train(model, optimizer, synapses, step, consolidate=consolidate)
    assert len(overflows) > 3
    assert_same(found, shadow.outcome, weights=1e-6, importance=1e-6)


@contextmanager
def warned_of_low_precision(form: str) -> Iterator[None]:
    """Expect the warning, and let pass the one of the compiled step that cannot walk over such parameters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the optimizer steps in several passes", si.SynapseWarning)
        with pytest.warns(si.SynapseWarning, match="keep float32 parameters and use autocast"):
            yield


@each_form
@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "SGD"), (torch.bfloat16, "Adam"), (torch.float16, "SGD")])
def test_parameters_in_low_precision_integrate_their_path_in_float32(dtype: torch.dtype, name: str, form: str) -> None:
    """They are warned of; path, omega and anchor are float32, and the path is that of the very steps within 1e-6.

    Where a step is too short for the parameter's few digits it moves nothing, and there is no path either.
    """
    model = small_model(dtype)
    with warned_of_low_precision(form):
        optimizer, synapses = made(form, name, model)
    # A gradient halfway between two numbers may be rounded otherwise from float64: one unit in the last place.
    unit = torch.finfo(dtype).eps
    shadow = Shadow(model, name, bound=unit)

    def step(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with shadow.step():
            optimizer.step()

    def consolidate() -> None:
        synapses.consolidate()
        shadow.consolidate()

    found = train(model, optimizer, synapses, step, of=lambda task: batches(task, dtype), consolidate=consolidate)
    for kind in (found.path, found.omega, found.anchor):
        assert {tensor.dtype for tensor in kind.values()} == {torch.float32}
    assert_same(found, shadow.outcome, weights=unit, importance=1e-6)


@each_form
@each_name
def test_a_bfloat16_model_goes_on_from_a_checkpoint_bit_for_bit(name: str, form: str, tmp_path: Path) -> None:
    """`Optimizer.load_state_dict` casts to the parameter's dtype; the synapses stay float32, through a file too."""

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, si.Consolidator]:
        model = small_model(torch.bfloat16)
        with warned_of_low_precision(form):
            return model, *made(form, name, model)

    def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator, first: int) -> None:
        for x, y in batches(1, torch.bfloat16)[first : first + 6]:
            plain_step(optimizer, model, x, y)

    model, optimizer, synapses = begin()
    for x, y in batches(0, torch.bfloat16):
        plain_step(optimizer, model, x, y)
    synapses.consolidate()
    go_on(model, optimizer, synapses, 0)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "synapses": synapses.state_dict()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    go_on(model, optimizer, synapses, 6)

    loaded = torch.load(tmp_path / "checkpoint.pt")
    other, fresh, again = begin()
    other.load_state_dict(loaded["model"])
    fresh.load_state_dict(loaded["optimizer"])
    if form == "hooks":
        again.load_state_dict(loaded["synapses"])
    for kind in (again.path, again.omega, again.anchor):
        assert {tensor.dtype for tensor in kind.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in again.path.values())  # a cast would have shown
    go_on(other, fresh, again, 6)
    assert same(other.state_dict(), model.state_dict())
    for ours, theirs in ((again.path, synapses.path), (again.omega, synapses.omega), (again.anchor, synapses.anchor)):
        assert same(dict(ours), dict(theirs))


def test_the_comparison_sees_a_path_that_is_kept_in_bfloat16() -> None:
    """A path that is rounded at each step to the dtype of a bfloat16 parameter differs by far more than 1e-6."""
    model = small_model(torch.float32)
    optimizer, shadow = adam(model.parameters()), Shadow(model, "Adam")
    rounded = {name: torch.zeros_like(p, dtype=torch.bfloat16) for name, p in model.named_parameters()}
    for x, y in batches(0):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with shadow.step():
            optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            rounded[name] -= (p.grad * (p.detach() - before[name])).bfloat16()
    assert min(relative_difference(rounded[name], path) for name, path in shadow.path.items()) > 1e-3


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/mixed_precision.py``."""
    with_synapses, without = first_task_accuracies(run_example("mixed_precision.py", tmp_path))
    assert with_synapses > without + 0.05
