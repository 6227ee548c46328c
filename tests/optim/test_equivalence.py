"""Synapses inside are those around torch's optimizer and those of the naive oracle, with and without the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, assert_close, loss_of, small_model, task_batches
from torch import Tensor, nn
from twins import (
    HAS_KERNEL,
    OPTIMIZERS,
    XI,
    C,
    Layout,
    Twins,
    compiled_with,
    count_rules,
    inside,
    label,
    needs_kernel,
    no_kernel,
    train,
)

import synaptic_intelligence as si
from synaptic_intelligence.functional import consolidated_omega

THREE: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
]


each_option = pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=label)
each_optimizer = pytest.mark.parametrize(("name", "options"), THREE, ids=label)


@pytest.fixture(params=[pytest.param("kernel", marks=needs_kernel), "fallback", "rules"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernel takes every step, or the rules that torch.compile compiles take it, uncompiled here, or none does."""
    if request.param == "fallback":
        with no_kernel():
            yield "fallback"
        return
    if request.param == "rules":
        with no_kernel(), compiled_with(None) as runs:
            yield "rules"
        assert runs
        return
    with count_rules() as called:
        yield "kernel"
    assert "adam_step" in called or "sgd_step" in called


def oracle_and_inside(
    name: str, options: dict[str, Any], dtype: torch.dtype, steps: int
) -> tuple[nn.Module, NaiveSynapses, nn.Module, si.Consolidator]:
    """Three tasks of each; the third is consolidated too. To maximize minus the loss is to minimise it."""
    twin, model = small_model(), small_model(dtype)
    plain = {key: value for key, value in options.items() if key not in ("maximize", "foreach", "fused")}
    twin_optimizer = getattr(torch.optim, name)(twin.parameters(), **plain)
    naive = NaiveSynapses(twin, C, XI)
    optimizer = inside(name, model.named_parameters(), **options)
    for task in range(3):
        for x, y in task_batches(task, steps):
            naive.step(twin_optimizer, loss_of(twin, x, y))
        train(model, optimizer, task, steps, sign=-1.0 if options.get("maximize") else 1.0)
        if task == 2:
            assert_close(optimizer.synapses.path.items(), naive.path, 1e-12 if dtype == torch.float64 else 1e-2)
        naive.consolidate()
        optimizer.consolidate()
    return twin, naive, model, optimizer.synapses


@each_option
def test_equals_the_oracle_in_float64(name: str, options: dict[str, Any], form: str) -> None:
    twin, naive, model, synapses = oracle_and_inside(name, options, torch.float64, 12)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)
    assert_close(synapses.anchor.items(), naive.anchor, 1e-12)


@each_optimizer
def test_equals_the_float64_oracle_in_float32(name: str, options: dict[str, Any], form: str) -> None:
    twin, naive, model, synapses = oracle_and_inside(name, options, torch.float32, 25)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-5)
    assert_close(synapses.omega.items(), naive.omega, 1e-4)


@each_option
def test_equals_hooks_around_torchs_optimizer_and_its_moments(name: str, options: dict[str, Any], form: str) -> None:
    twins = Twins(name, [lambda: torch.randn(7, 9).double(), lambda: torch.randn(5).double()], **options)
    sign = -1.0 if options.get("maximize") else 1.0
    twins.run(lambda _, gradient: sign * gradient)
    twins.assert_equal()
    hooked, ours = (optimizer.state_dict()["state"] for optimizer in twins.optimizers)
    for key, state in hooked.items():
        for moment, value in state.items():
            found = ours[key][moment]
            assert (found.dtype, found.shape, found.stride()) == (value.dtype, value.shape, value.stride())
            assert_close([("m", found)], {"m": value}, 1e-12)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_option
def test_the_kernel_and_the_fallback_agree(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    runs = []
    for kernel in (True, False):
        model = small_model(dtype)
        with count_rules() as called:
            if kernel:
                optimizer = inside(name, model.named_parameters(), **options)
                for task in range(2):
                    train(model, optimizer, task, 6)
                    optimizer.consolidate()
            else:
                with no_kernel():
                    optimizer = inside(name, model.named_parameters(), **options)
                    for task in range(2):
                        train(model, optimizer, task, 6)
                        optimizer.consolidate()
        assert len(called) == (12 if kernel else 0)
        runs.append((model, dict(optimizer.synapses.omega)))
    (a, omega_a), (b, omega_b) = runs
    exact = dtype == torch.float64
    assert_close(a.named_parameters(), dict(b.named_parameters()), 1e-12 if exact else 1e-5)
    assert_close(omega_a.items(), omega_b, 1e-12 if exact else 1e-4)


def test_the_pull_matters_in_these_tests() -> None:
    held, free = small_model(), small_model()
    for model, c in ((held, C), (free, 0.0)):
        optimizer = inside("Adam", model.named_parameters(), lr=0.01, c=c)
        for task in range(3):
            train(model, optimizer, task)
            optimizer.consolidate()
    pairs = zip(held.parameters(), free.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) > 1e-3


# Layouts.

LAYOUTS: dict[str, Layout] = {
    "matrix": lambda: torch.randn(7, 9).double(),
    "transposed": lambda: torch.randn(9, 7).double().T,
    "slice": lambda: torch.randn(6, 8).double()[:, ::2],
    "rows": lambda: torch.randn(6, 8).double()[2:4],
    "image": lambda: torch.randn(4, 3, 3, 2).double(),
    "channels_last": lambda: torch.randn(4, 3, 3, 2).double().to(memory_format=torch.channels_last),
    "one-by-one": lambda: torch.randn(4, 3, 1, 1).double().to(memory_format=torch.channels_last),
    "column": lambda: torch.randn(5, 1).double(),
    "scalar": lambda: torch.randn(()).double(),
    "empty": lambda: torch.empty(0, 3).double(),
    "just-below": lambda: torch.randn(63).double(),
    "just-above": lambda: torch.randn(65).double(),
}


def transposed(number: int, gradient: Tensor) -> Tensor:
    """The same numbers, with the strides of the dimensions the other way round."""
    order = list(range(gradient.ndim))[::-1]
    return gradient.permute(order).contiguous().permute(order)


def strided(number: int, gradient: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    wide = torch.zeros(*gradient.shape, 2, dtype=gradient.dtype)
    wide[..., 0] = gradient
    return wide[..., 0]


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradients", [None, transposed, strided])
@each_optimizer
def test_any_layout(name: str, options: dict[str, Any], layout: str, gradients: Any) -> None:
    twins = Twins(name, [LAYOUTS[layout], LAYOUTS["just-below"]], **options)
    assert twins.named[1]["p0"].stride() == LAYOUTS[layout]().stride()  # else this test would show nothing
    with count_rules() as called:
        twins.run(gradients)
    twins.assert_equal()
    if HAS_KERNEL:
        assert bool({"adam_step", "sgd_step"} & {*called}) == (layout not in ("transposed", "slice"))


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
@each_optimizer
def test_all_layouts_in_one_optimizer(name: str, options: dict[str, Any]) -> None:
    twins = Twins(name, list(LAYOUTS.values()), **options)
    twins.run(lambda number, gradient: (transposed, strided)[number % 2](number, gradient))
    twins.assert_equal()


@needs_kernel
def test_a_network_that_becomes_channels_last_keeps_the_kernel() -> None:
    model, twin = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).double() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    optimizer = inside("Adam", model.named_parameters(), lr=0.01)
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(twin.named_parameters(), twin_optimizer, c=C, xi=XI)
    for task in range(3):
        if task == 1:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with count_rules() as called:
            for m, o in ((model, optimizer), (twin, twin_optimizer)):
                for step in range(4):
                    o.zero_grad()
                    x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(9 * task + step)).double()
                    (m(x) - task).square().mean().backward()
                    o.step()
        assert called.count("adam_step") == 4
        optimizer.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(optimizer.synapses.omega.items(), dict(synapses.omega), 1e-12)


@pytest.mark.filterwarnings("ignore:the optimizer steps in several passes")
@needs_kernel
def test_a_gradient_that_is_a_lazy_negative_is_not_read_as_it_lies() -> None:
    p = nn.Parameter(torch.zeros(1))
    optimizer = inside("SGD", [("p", p)], lr=1.0)
    gradient = torch.tensor([2.0 + 3.0j]).conj().imag
    assert gradient.is_neg()
    assert gradient.is_contiguous()
    p.grad = gradient
    optimizer.step()
    assert p.item() == 3.0
    assert optimizer.synapses.path["p"].item() == 9.0


@each_optimizer
def test_several_dtypes_in_one_optimizer(name: str, options: dict[str, Any]) -> None:
    with count_rules() as called:
        twins = Twins(name, [lambda: torch.randn(7, 9).double(), lambda: torch.randn(5, 3)], **options)
        twins.run()
    assert not HAS_KERNEL or {"adam_step", "sgd_step"} & {*called}
    twins.assert_equal(1e-5, 1e-4)
    assert {path.dtype for path in twins.synapses[1].path.values()} == {torch.float32, torch.float64}


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
@each_optimizer
def test_low_precision_beside_high(name: str, options: dict[str, Any]) -> None:
    """bfloat16 takes the way around: the same numbers as the hooks, with wide synapses."""
    twins = Twins(name, [lambda: torch.randn(7, 9).bfloat16(), lambda: torch.randn(5, 3)], **options)
    twins.run()
    twins.assert_equal(0.0, 0.0)
    assert {path.dtype for path in twins.synapses[1].path.values()} == {torch.float32}


@needs_kernel
@each_optimizer
def test_more_than_one_thread(name: str, options: dict[str, Any]) -> None:
    """Large tensors whose sizes divide by nothing: each element is stepped once, whichever thread does it."""
    layouts: list[Layout] = [partial(torch.randn, size) for size in (40009, 65, 1, 70001)]
    twins = Twins(name, layouts, **options)
    twins.run(tasks=2, steps=2)
    model = {key: nn.Parameter(value) for key, value in Twins(name, layouts, **options).named[1].items()}
    optimizer = inside(name, model.items(), **options)
    for task in range(2):
        for number in range(2):
            twins.gradients(model, task, number)
            torch.set_num_threads(2)
            optimizer.step()
            torch.set_num_threads(1)
        if task == 0:
            optimizer.consolidate()
    assert_close(model.items(), dict(twins.named[1]), 0.0)
    assert_close(optimizer.synapses.path.items(), dict(twins.synapses[1].path), 0.0)
    twins.assert_equal(1e-5, 1e-4)


# What training does around a step.


def some_without(number: int, gradient: Tensor) -> Tensor | None:
    return None if number == 1 else gradient


@each_optimizer
def test_parameters_without_a_gradient(name: str, options: dict[str, Any], form: str) -> None:
    """With importance the pull alone moves them; without they stay, and make no moments."""
    twins = Twins(name, [LAYOUTS["matrix"], LAYOUTS["scalar"], LAYOUTS["column"]], **options)
    start = twins.named[1]["p1"].detach().clone()
    for number in range(4):
        twins.step(0, number, some_without)
    assert torch.equal(twins.named[1]["p1"], start)
    assert not {"step", "momentum_buffer"} & {*twins.optimizers[1].state[twins.named[1]["p1"]]}
    twins.run(tasks=2)
    for synapses in twins.synapses:
        synapses.consolidate()
    moved = twins.named[1]["p1"].detach().clone()
    twins.step(2, 0)  # away from the anchor
    for number in range(4):
        twins.step(2, number + 1, some_without)
        assert twins.named[1]["p1"].grad is None
    assert not torch.equal(twins.named[1]["p1"], moved)
    twins.assert_equal()


@each_optimizer
def test_groups_with_their_own_strength_damping_and_rate(name: str, options: dict[str, Any], form: str) -> None:
    def groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        return [
            {"params": named[:1], "c": 0.1, "lr": 0.02},
            {"params": named[1:2], "c": 1.5, "xi": 0.4},
            {"params": named[2:3], "c": None},
            {"params": named[3:]},
        ]

    four = [LAYOUTS["matrix"], LAYOUTS["column"], LAYOUTS["just-above"], LAYOUTS["image"]]
    twins = Twins(name, four, groups, **options)
    twins.run(tasks=1)
    twins.assert_equal()
    hooked, ours = twins.synapses
    assert list(ours.path) == ["p0", "p1", "p3"]
    path, anchor = dict(hooked.path), {n: a.clone() for n, a in hooked.anchor.items()}
    hooked.consolidate()
    ours.consolidate()
    for key, xi in (("p0", XI), ("p1", 0.4), ("p3", XI)):
        moved = twins.named[0][key].detach() - anchor[key]
        by_hand = consolidated_omega(torch.zeros_like(moved), path[key], moved, xi)
        assert_close([(key, ours.omega[key])], {key: by_hand}, 1e-12)
    hooked._state.omega["p1"].copy_(ours.omega["p1"])  # hooks know one xi alone
    for number in range(6):
        twins.step(1, number)
    twins.assert_equal()
    assert "anchor" not in twins.optimizers[1].state[twins.named[1]["p2"]]


@each_optimizer
def test_closures(name: str, options: dict[str, Any], form: str) -> None:
    twin, model = small_model(), small_model()
    twin_optimizer = getattr(torch.optim, name)(twin.parameters(), **options)
    naive = NaiveSynapses(twin, C, XI)
    optimizer = inside(name, model.named_parameters(), **options)
    for task, keyword in ((0, True), (1, False)):
        for x, y in task_batches(task, 6):
            naive.step(twin_optimizer, loss_of(twin, x, y))

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                assert torch.is_grad_enabled()
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            expected = F.cross_entropy(model(x), y).item()
            loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            assert loss.item() == expected
        naive.consolidate()
        optimizer.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(optimizer.synapses.omega.items(), naive.omega, 1e-12)


def test_a_closure_that_raises_is_no_step() -> None:
    model, twin = small_model(), small_model()
    optimizer, other = inside("Adam", model.named_parameters()), inside("Adam", twin.named_parameters())

    def broken() -> Tensor:
        raise MemoryError("too large a batch")

    for o in (optimizer, other):
        train(model if o is optimizer else twin, o, 0)
    with pytest.raises(MemoryError):
        optimizer.step(broken)
    for o in (optimizer, other):
        train(model if o is optimizer else twin, o, 1)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 0.0)
    assert optimizer.synapses.state_dict()["steps"] == 20


@each_optimizer
def test_schedulers_change_the_rate_and_the_momentum(name: str, options: dict[str, Any], form: str) -> None:
    twins = Twins(name, [LAYOUTS["matrix"], LAYOUTS["column"]], **options)
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=18) for o in twins.optimizers]
    for task in range(3):
        for number in range(6):
            twins.step(task, number)
            if (task, number) != (2, 5):
                for scheduler in schedulers:
                    scheduler.step()
        for synapses in twins.synapses:
            synapses.consolidate()
    twins.assert_equal()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_the_rate_may_be_a_tensor(name: str, form: str) -> None:
    twins = Twins(name, [LAYOUTS["matrix"]], lr=torch.tensor(0.02, dtype=torch.float64))
    twins.run(tasks=1)
    for optimizer in twins.optimizers:
        optimizer.param_groups[0]["lr"].fill_(0.01)
    twins.run()
    twins.assert_equal()


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_grad_scaler(name: str, fused: bool | None, form: str) -> None:
    """The path takes the gradient without the scale; a step that overflows is none."""
    plain, model = small_model(torch.float32), small_model(torch.float32)
    plain_optimizer = inside(name, plain.named_parameters(), lr=0.01)
    optimizer = inside(name, model.named_parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=7)
    for task in range(2):
        train(plain, plain_optimizer, task)
        for number, (x, y) in enumerate(task_batches(task, 10, torch.float32)):
            for overflow in [True, False] if number == 4 else [False]:
                optimizer.zero_grad()
                loss = scaler.scale(F.cross_entropy(model(x), y))
                (loss * torch.inf if overflow else loss).backward()
                if number % 3 == 1:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 1e6)
                scaler.step(optimizer)
                scaler.update()
        assert optimizer.synapses.state_dict()["steps"] == 10
        plain_optimizer.consolidate()
        optimizer.consolidate()
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 1e-5)
    assert_close(optimizer.synapses.omega.items(), dict(plain_optimizer.synapses.omega), 1e-4)


def test_the_path_uses_the_clipped_gradient(form: str) -> None:
    model = small_model()
    optimizer = inside("SGD", model.named_parameters(), lr=0.05)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in task_batches(0, 10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        assert float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)) > 0.1
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            expected[name] -= p.grad * (p.detach() - before[name])
    assert_close(optimizer.synapses.path.items(), expected, 1e-12)


def test_the_gradients_of_the_task_stay(form: str) -> None:
    model = small_model()
    optimizer = inside("Adam", model.named_parameters(), weight_decay=0.1, maximize=True)
    train(model, optimizer, 0)
    optimizer.consolidate()
    gradients = [p.grad for p in model.parameters()]
    values = [g.clone() for g in gradients if g is not None]
    optimizer.step()
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(values, [g for g in gradients if g is not None], strict=True))


@each_optimizer
def test_paused_steps_are_torchs_own(name: str, options: dict[str, Any], form: str) -> None:
    twins = Twins(name, [LAYOUTS["matrix"], LAYOUTS["column"]], **options)
    twins.run(tasks=2)
    path = {key: value.clone() for key, value in twins.synapses[1].path.items()}
    with twins.synapses[0].paused(), twins.synapses[1].paused():
        for number in range(3):
            twins.step(5, number)
    assert_close(twins.synapses[1].path.items(), path, 0.0)
    twins.step(1, 9)
    twins.assert_equal()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@each_optimizer
def test_elements_that_are_not_finite_add_nothing(name: str, options: dict[str, Any], bad: float, form: str) -> None:
    p, q = nn.Parameter(torch.ones(70)), nn.Parameter(torch.ones(2))
    optimizer = inside(name, [("p", p), ("q", q)], **options)
    p.grad, q.grad = torch.ones(70), torch.ones(2)
    optimizer.step()
    path = optimizer.synapses.path["p"].clone()
    p.grad[[0, 66]] = bad
    optimizer.step()
    assert torch.equal(optimizer.synapses.path["p"][[0, 66]], path[[0, 66]])
    assert bool((optimizer.synapses.path["p"][1:66] > path[1:66]).all())
    with pytest.warns(si.SynapseWarning, match="1 optimizer steps had gradients") as caught:
        optimizer.state_dict()
    optimizer.state_dict()  # says it once: warnings are errors here
    assert len(caught) == 1
    with pytest.raises(si.SynapseError, match="not finite"):
        optimizer.consolidate()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_differentiable_is_torchs_own_step(name: str) -> None:
    """On the leaves that networks have, torch refuses; on others the synapses stand around."""
    p = nn.Parameter(torch.ones(3))
    optimizer = inside(name, [("p", p)], lr=0.1, differentiable=True)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        optimizer.step()
    results = []
    for hooks in (True, False):
        constant = torch.ones(3)
        options = {"lr": 0.1, "differentiable": True}
        if hooks:
            plain = getattr(torch.optim, name)([constant], **options)
            synapses = si.SynapticIntelligence([("p", constant)], plain, c=C, xi=XI)
        else:
            plain = inside(name, [("p", constant)], **options)
            synapses = plain.synapses
        for task, _ in itertools.product(range(2), range(3)):
            constant.grad = constant - task
            plain.step()
            if task == 0:
                constant.grad = None
        results.append((constant, synapses.path["p"]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_capturable_is_refused_on_the_cpu_as_torch_does(name: str) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = inside(name, [("p", p)], capturable=True)
    p.grad = gradient = torch.ones(3)
    with pytest.raises(AssertionError, match="capturable=True"):
        optimizer.step()
    optimizer.param_groups[0]["capturable"] = False
    optimizer.zero_grad()
    p.grad = gradient
    optimizer.step()
    assert p.grad is gradient


def test_the_first_moment_of_a_sudden_small_gradient_is_exact() -> None:
    """With beta1 = 0 the moment is the gradient, however large the one before was."""
    p = nn.Parameter(torch.ones(1))
    optimizer = inside("Adam", [("p", p)], betas=(0.0, 0.9))
    for gradient in (1e8, 1.0):
        p.grad = torch.tensor([gradient])
        optimizer.step()
    assert optimizer.state[p]["exp_avg"].item() == 1.0


def test_hooks_of_the_user_run_once_a_step(form: str) -> None:
    torch.optim.Adam([nn.Parameter(torch.ones(1))])  # torch hooks into its own step when it is first made
    p = nn.Parameter(torch.ones(1))
    optimizer = inside("Adam", [("p", p)])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for _ in range(2):
        p.grad = torch.ones(1)
        optimizer.step()
    with optimizer.synapses.paused():
        optimizer.step()
    assert seen == ["before", "after"] * 3
    assert optimizer.state[p]["step"] == 3
