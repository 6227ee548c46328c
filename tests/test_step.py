"""What real training does around a step: groups, frozen parts, clipping, scalers, closures, fresh optimizers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, assert_close, loss_of, small_model, task_batches
from torch import Tensor, nn

import synaptic_intelligence as si

C, XI = 0.5, 0.05


def train(model: nn.Module, optimizer: torch.optim.Optimizer, task: int, steps: int = 10) -> None:
    dtype = next(model.parameters()).dtype
    for x, y in task_batches(task, steps, dtype):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def train_naive(naive: NaiveSynapses, model: nn.Module, optimizer: torch.optim.Optimizer, task: int) -> None:
    for x, y in task_batches(task, 10):
        naive.step(optimizer, loss_of(model, x, y))


def both(make: Callable[[nn.Module], torch.optim.Optimizer], *, fresh: bool = False) -> None:
    """Train three tasks with the oracle and with the library, and compare."""
    twin, model = small_model(), small_model()
    twin_optimizer, optimizer = make(twin), make(model)
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(3):
        if fresh and task:
            twin_optimizer, optimizer = make(twin), make(model)
            synapses.attach(optimizer)
        train_naive(naive, twin, twin_optimizer, task)
        train(model, optimizer, task)
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


def test_several_parameter_groups() -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        weights = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim == 1]
        return torch.optim.SGD([{"params": others, "lr": 0.02}, {"params": weights, "weight_decay": 0.1}], lr=0.05)

    both(make)


def test_a_fresh_optimizer_for_each_task() -> None:
    both(lambda model: torch.optim.Adam(model.parameters(), lr=0.01), fresh=True)


def test_groups_with_their_own_strength() -> None:
    """A strength in the group counts, c=None allocates nothing and trains freely, c may change between tasks."""
    model = small_model()
    head = [p for name, p in model.named_parameters() if name.startswith("3.")]
    body = [p for name, p in model.named_parameters() if not name.startswith("3.")]
    groups: list[dict[str, Any]] = [{"params": body, "c": 3.0}, {"params": head, "c": None}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=XI)
    assert all(not name.startswith("3.") for name in synapses.omega)
    train(model, optimizer, 0)
    synapses.consolidate()
    train(model, optimizer, 1)
    strong = float(synapses.penalty())
    optimizer.param_groups[0]["c"] = 1.5
    assert float(synapses.penalty()) == pytest.approx(strong / 2)
    by_hand = sum(
        float((1.5 * synapses.omega[name] * (p.detach() - synapses.anchor[name]).square()).sum())
        for name, p in model.named_parameters()
        if name in synapses.omega
    )
    assert float(synapses.penalty()) == pytest.approx(by_hand, rel=1e-12)


def test_strength_zero_is_plain_training_bit_for_bit() -> None:
    plain, model = small_model(torch.float32), small_model(torch.float32)
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=XI)
    for task in range(3):
        train(plain, plain_optimizer, task)
        train(model, optimizer, task)
        synapses.consolidate()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_the_strength_may_change_between_tasks() -> None:
    twin, model = small_model(), small_model()
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task, c in enumerate((0.5, 2.0, 0.1)):
        naive.c = synapses.c = c
        train_naive(naive, twin, twin_optimizer, task)
        train(model, optimizer, task)
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)


def test_frozen_parameters_do_not_move_and_cost_nothing() -> None:
    model = small_model()
    for p in model[0].parameters():
        p.requires_grad_(False)
    start = [p.clone() for p in model[0].parameters()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    assert not [name for name in synapses.path if name.startswith("0.")]
    for task in range(2):
        train(model, optimizer, task)
        synapses.consolidate()
    assert all(torch.equal(a, b) for a, b in zip(model[0].parameters(), start, strict=True))


def test_a_parameter_that_is_frozen_later_is_not_pulled() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    train(model, optimizer, 1, steps=2)
    model.get_parameter("0.weight").requires_grad_(False)
    frozen = model.get_parameter("0.weight").clone()
    assert bool((synapses.omega["0.weight"] > 0).any())
    train(model, optimizer, 1)
    assert torch.equal(model.get_parameter("0.weight"), frozen)
    assert model.get_parameter("0.weight").grad is None


class TwoHeads(nn.Module):
    """Only one head is used at a time, so the other gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
        self.active = 0
        self.double()

    def weight(self, head: int) -> nn.Parameter:
        return self.get_parameter(f"heads.{head}.weight")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.heads[self.active](torch.tanh(self.body(x)))
        return y


def two_heads() -> TwoHeads:
    model = TwoHeads()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)
    return model


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_parameters_without_a_gradient(momentum: float) -> None:
    """What has importance is pulled as with the penalty in the loss; what has none stays without a gradient."""
    twin, model = two_heads(), two_heads()
    untouched = model.weight(1).detach().clone()
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=momentum)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    assert torch.equal(model.weight(1), untouched)
    synapses.consolidate()
    twin.load_state_dict(model.state_dict())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    omega, anchor = dict(synapses.omega), {name: a.clone() for name, a in synapses.anchor.items()}
    with torch.no_grad():  # move the head that is not used, so that there is something to pull back
        for m in (twin, model):
            m.weight(0).add_(0.1)
    twin.active = model.active = 1
    for x, y in task_batches(1, 10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", si.SynapseWarning)  # of the edit above
            optimizer.step()
        assert model.weight(0).grad is None
        twin_optimizer.zero_grad()
        loss = F.cross_entropy(twin(x), y)
        for name, p in twin.named_parameters():
            if bool((omega[name] > 0).any()):
                loss = loss + C * (omega[name] * (p - anchor[name]) ** 2).sum()
        loss.backward()
        twin_optimizer.step()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert float(synapses.path["heads.0.weight"].abs().max()) == 0


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6, bias=False, dtype=torch.float64)
            self.b = nn.Linear(6, 6, bias=False, dtype=torch.float64)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(torch.tanh(self.a(x)))
            return y[:, :3]

    def make() -> Tied:
        model = Tied()
        with torch.no_grad():
            model.a.weight.copy_(torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(6, 6))
        return model

    twin, model = make(), make()
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(remove_duplicate=False), optimizer, c=C, xi=XI)
    assert list(synapses.path) == ["a.weight"]
    for task in range(2):
        train_naive(naive, twin, twin_optimizer, task)
        train(model, optimizer, task)
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


def test_gradient_accumulation() -> None:
    """Four small batches that are accumulated are one step of their mean."""
    twin, model = small_model(), small_model()
    twin_optimizer, optimizer = (torch.optim.Adam(m.parameters(), lr=0.01) for m in (twin, model))
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(2):
        for x, y in task_batches(task, 10):
            naive.step(twin_optimizer, loss_of(twin, x, y))
            optimizer.zero_grad()
            for part_x, part_y in zip(x.split(4), y.split(4), strict=True):
                (F.cross_entropy(model(part_x), part_y) / 4).backward()
            optimizer.step()
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-11)


def test_the_path_uses_the_clipped_gradient() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in task_batches(0, 10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert float(norm) > 0.1  # else this test would show nothing
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            expected[name] -= p.grad * (p.detach() - before[name])
    assert_close(synapses.path.items(), expected, 1e-12)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_maximize_is_the_mirror_image(name: str) -> None:
    """Maximising minus the loss gives the same weights, path and omega as minimising the loss."""
    down, up = small_model(), small_model()
    down_optimizer = getattr(torch.optim, name)(down.parameters(), lr=0.01)
    up_optimizer = getattr(torch.optim, name)(up.parameters(), lr=0.01, maximize=True)
    down_synapses = si.SynapticIntelligence(down.named_parameters(), down_optimizer, c=C, xi=XI)
    up_synapses = si.SynapticIntelligence(up.named_parameters(), up_optimizer, c=C, xi=XI)
    for task in range(3):
        train(down, down_optimizer, task)
        for x, y in task_batches(task, 10):
            up_optimizer.zero_grad()
            (-F.cross_entropy(up(x), y)).backward()
            up_optimizer.step()
        down_synapses.consolidate()
        up_synapses.consolidate()
    assert_close(up.named_parameters(), dict(down.named_parameters()), 1e-12)
    assert_close(up_synapses.omega.items(), dict(down_synapses.omega), 1e-12)
    assert any(bool((omega > 0).any()) for omega in up_synapses.omega.values())


def test_learning_rate_schedulers() -> None:
    twin, model = small_model(), small_model()
    pairs = []
    for m in (twin, model):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
        pairs.append((optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=30)))
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), pairs[1][0], c=C, xi=XI)
    for task in range(2):
        for x, y in task_batches(task, 10):
            naive.step(pairs[0][0], loss_of(twin, x, y))
            pairs[0][1].step()
            pairs[1][0].zero_grad()
            F.cross_entropy(model(x), y).backward()
            pairs[1][0].step()
            pairs[1][1].step()
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale_first", [True, False])
def test_grad_scaler_with_overflow_steps(fused: bool, unscale_first: bool) -> None:
    """Scaling by powers of two and steps that overflow leave the numbers of training without a scaler."""
    plain, model = small_model(torch.float32), small_model(torch.float32)
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, fused=fused)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    plain_synapses = si.SynapticIntelligence(plain.named_parameters(), plain_optimizer, c=C, xi=XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
    for task in range(3):
        train(plain, plain_optimizer, task)
        for number, (x, y) in enumerate(task_batches(task, 10, torch.float32)):
            for overflows in [True, False] if number in (0, 4) else [False]:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y) * (torch.inf if overflows else 1.0)
                scaler.scale(loss).backward()
                if unscale_first:
                    scaler.unscale_(optimizer)
                weights = [p.detach().clone() for p in model.parameters()]
                scaler.step(optimizer)
                scaler.update()
                moved = any(not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
                assert moved is not overflows
        plain_synapses.consolidate()
        synapses.consolidate()  # would warn if the overflow steps had been counted as not finite
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 1e-6)
    assert_close(synapses.omega.items(), dict(plain_synapses.omega), 1e-6)


def test_a_task_of_overflow_steps_alone_has_no_path() -> None:
    model = small_model(torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    scaler = torch.amp.GradScaler("cpu")
    x, y = task_batches(0, 1, torch.float32)[0]
    scaler.scale(F.cross_entropy(model(x), y) * torch.inf).backward()
    scaler.step(optimizer)
    with pytest.raises(si.SynapseError, match="no optimizer step"):
        synapses.consolidate()


@pytest.mark.parametrize("as_keyword", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_closures(name: str, as_keyword: bool) -> None:
    """The gradient that counts is the one that the closure has just computed, not what was there before."""
    twin, model = small_model(), small_model()
    twin_optimizer, optimizer = (getattr(torch.optim, name)(m.parameters(), lr=0.02) for m in (twin, model))
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(3):
        train_naive(naive, twin, twin_optimizer, task)
        for x, y in task_batches(task, 10):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
            assert isinstance(loss, Tensor)
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


def test_two_optimizers_over_two_halves() -> None:
    """One object each; together they are one object over the whole."""
    whole, halves = small_model(), small_model()
    whole_optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    whole_synapses = si.SynapticIntelligence(whole.named_parameters(), whole_optimizer, c=C, xi=XI)
    named = list(halves.named_parameters())
    parts = []
    for part in (named[:3], named[3:]):
        optimizer = torch.optim.SGD([p for _, p in part], lr=0.05, momentum=0.9)
        parts.append((optimizer, si.SynapticIntelligence(part, optimizer, c=C, xi=XI)))
    for task in range(3):
        train(whole, whole_optimizer, task)
        whole_synapses.consolidate()
        for x, y in task_batches(task, 10):
            halves.zero_grad()
            F.cross_entropy(halves(x), y).backward()
            for optimizer, _ in parts:
                optimizer.step()
        for _, synapses in parts:
            synapses.consolidate()
    assert_close(halves.named_parameters(), dict(whole.named_parameters()), 1e-12)
    assert_close([item for _, s in parts for item in s.omega.items()], dict(whole_synapses.omega), 1e-12)


def test_the_task_gradient_is_back_after_the_step() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    train(model, optimizer, 1, steps=3)
    x, y = task_batches(1, 1)[0]
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    gradients = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is gradients[name][0]
        assert torch.equal(gradients[name][1], p.grad)


def test_an_optimizer_that_edits_gradients_does_not_spoil_the_path() -> None:
    class Editing(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(-1)
                p.add_(p.grad, alpha=0.1)
                p.grad.zero_()

    plain, edited = small_model(), small_model()
    plain_optimizer, optimizer = torch.optim.SGD(plain.parameters(), lr=0.1), Editing(edited.parameters())
    a = si.SynapticIntelligence(plain.named_parameters(), plain_optimizer, c=C, xi=XI)
    b = si.SynapticIntelligence(edited.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(2):
        train(plain, plain_optimizer, task)
        train(edited, optimizer, task)
        a.consolidate()
        b.consolidate()
    assert_close(b.omega.items(), dict(a.omega), 1e-12)


def test_a_step_that_raises_half_way_leaves_no_trace() -> None:
    class Failing(torch.optim.SGD):
        fail = False

        def step(self, closure: Any = None) -> Any:
            if self.fail:
                raise OSError("no luck")
            return super().step(closure)

    model, twin = small_model(), small_model()
    optimizer, twin_optimizer = (Failing(m.parameters(), lr=0.05) for m in (model, twin))
    synapses, twin_synapses = (
        si.SynapticIntelligence(m.named_parameters(), o, c=C, xi=XI)
        for m, o in ((model, optimizer), (twin, twin_optimizer))
    )
    for m, o, s in ((model, optimizer, synapses), (twin, twin_optimizer, twin_synapses)):
        train(m, o, 0)
        s.consolidate()
        train(m, o, 1, steps=2)
    x, y = task_batches(1, 3)[2]
    for m, o in ((model, optimizer), (twin, twin_optimizer)):
        o.zero_grad()
        F.cross_entropy(m(x), y).backward()
    optimizer.fail = True
    with pytest.raises(OSError, match="no luck"):
        optimizer.step()
    optimizer.fail = False
    optimizer.step()
    twin_optimizer.step()
    assert_close(synapses.path.items(), dict(twin_synapses.path), 0)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 0)


@pytest.mark.parametrize("action", ["consolidate", "detach", "attach", "load", "pause"])
def test_what_follows_a_step_that_raised_first_puts_the_gradients_back(action: str) -> None:
    class Failing(torch.optim.Optimizer):
        fail = False

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                if self.fail:
                    raise OSError("no luck")
                p.sub_(p.grad, alpha=0.05)

    model = small_model()
    optimizer = Failing(model.parameters(), {})
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    train(model, optimizer, 1)
    gradients = [p.grad for p in model.parameters()]
    optimizer.fail = True
    with pytest.raises(OSError, match="no luck"):
        optimizer.step()
    assert any(p.grad is not g for p, g in zip(model.parameters(), gradients, strict=True))
    if action == "consolidate":
        synapses.consolidate()
    elif action == "detach":
        synapses.detach()
    elif action == "attach":
        synapses.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    elif action == "load":
        synapses.load_state_dict(copy.deepcopy(synapses.state_dict()))
    else:
        with synapses.paused():
            pass
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


class Own(torch.optim.SGD):
    """A subclass with an update of its own, that does not call its parent's step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad, alpha=-0.05)
        return loss


def test_a_closure_that_raises_does_not_end_the_watch() -> None:
    model, twin = small_model(), small_model()
    optimizer, twin_optimizer = Own(model.parameters(), lr=0.05), torch.optim.SGD(twin.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    naive = NaiveSynapses(twin, C, XI)

    def broken() -> Tensor:
        raise MemoryError("too large a batch")

    for task in range(2):
        with pytest.raises(MemoryError):
            optimizer.step(broken)
        for x, y in task_batches(task, 10):
            naive.step(twin_optimizer, loss_of(twin, x, y))

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
        naive.consolidate()
        synapses.consolidate()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)


def test_a_step_that_cannot_begin_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    x, y = task_batches(0, 1)[0]
    F.cross_entropy(model(x), y).backward()
    gradients = [p.grad for p in model.parameters()]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            optimizer.step()
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    optimizer.step()
    synapses.consolidate()


def test_a_step_in_which_nothing_has_a_gradient_is_none() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    optimizer.step()
    assert synapses.state_dict()["steps"] == 0
    assert synapses.state_dict()["untouched"]


def test_the_step_that_distributed_checkpointing_takes_is_none() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    get_optimizer_state_dict(model, optimizer)
    assert len(optimizer.state) > 0  # it did step
    assert synapses.state_dict()["steps"] == 0
    model.load_state_dict(small_model(seed=4).state_dict())
    assert_close(synapses.anchor.items(), dict(model.named_parameters()), 0)
    train(model, optimizer, 0)
    assert synapses.state_dict()["steps"] == 10


def test_a_warm_up_from_zero_is_pulled_from_its_first_step() -> None:
    """A fresh Adam whose first rate is zero keeps that step's gradient, the penalty's too, in its moments."""
    twin, model = small_model(), small_model()
    twin_optimizer, optimizer = (torch.optim.SGD(m.parameters(), lr=0.05) for m in (twin, model))
    naive = NaiveSynapses(twin, C, XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train_naive(naive, twin, twin_optimizer, 0)
    train(model, optimizer, 0)
    naive.consolidate()
    synapses.consolidate()
    train_naive(naive, twin, twin_optimizer, 1)
    train(model, optimizer, 1)
    adams = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (twin, model)]
    warmups = [torch.optim.lr_scheduler.LambdaLR(adam, lambda step: step / 10) for adam in adams]
    synapses.attach(adams[1])
    for x, y in task_batches(2, 10):
        naive.step(adams[0], loss_of(twin, x, y))
        adams[1].zero_grad()
        F.cross_entropy(model(x), y).backward()
        adams[1].step()
        for warmup in warmups:
            warmup.step()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.path.items(), naive.path, 1e-12)


def test_moving_to_and_fro_leaves_no_hooks_behind() -> None:
    model = small_model()
    one, two = (torch.optim.SGD(model.parameters(), lr=0.05) for _ in range(2))
    synapses = si.SynapticIntelligence(model.named_parameters(), one, c=C, xi=XI)
    for _ in range(10):
        synapses.attach(two)
        synapses.attach(one)
    assert len(one._optimizer_step_pre_hooks) == len(one._optimizer_step_post_hooks) == 1
    assert len(two._optimizer_step_pre_hooks) == 1  # the one that refuses
    assert len(two._optimizer_step_post_hooks) == 0


def test_two_consolidators_on_one_optimizer() -> None:
    """Each for its own parameters; together they are one over the whole. If one leaves, steps raise."""
    whole, parts = small_model(), small_model()
    whole_optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.01)
    whole_synapses = si.SynapticIntelligence(whole.named_parameters(), whole_optimizer, c=C, xi=XI)
    named = list(parts.named_parameters())
    first = si.SynapticIntelligence(named[:3], optimizer, c=C, xi=XI)
    second = si.SynapticIntelligence(named[3:], optimizer, c=C, xi=XI)
    for task in range(3):
        train(whole, whole_optimizer, task)
        train(parts, optimizer, task)
        for synapses in (whole_synapses, first, second):
            synapses.consolidate()
    assert_close(parts.named_parameters(), dict(whole.named_parameters()), 1e-12)
    assert_close([*first.omega.items(), *second.omega.items()], dict(whole_synapses.omega), 1e-12)
    first.detach()
    with pytest.raises(si.SynapseError, match="detached"):
        optimizer.step()
    first.attach(optimizer)
    train(parts, optimizer, 0)


def test_two_optimizers_under_one_scaler() -> None:
    plain, model = small_model(torch.float32), small_model(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    runs = []
    for m in (plain, model):
        named = list(m.named_parameters())
        optimizers = [torch.optim.Adam([p for _, p in part], lr=0.01, fused=True) for part in (named[:3], named[3:])]
        made = zip((named[:3], named[3:]), optimizers, strict=True)
        runs.append((optimizers, [si.SynapticIntelligence(part, o, c=C, xi=XI) for part, o in made]))
    for task in range(2):
        for x, y in task_batches(task, 10, torch.float32):
            plain.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            for optimizer in runs[0][0]:
                optimizer.step()
            model.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            for optimizer in runs[1][0]:
                scaler.step(optimizer)
            scaler.update()
        for _, consolidators in runs:
            for synapses in consolidators:
                synapses.consolidate()
    for a, b in zip(runs[1][1], runs[0][1], strict=True):
        assert_close(a.omega.items(), dict(b.omega), 1e-6)
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 1e-6)


def test_a_head_that_is_left_out_is_not_pulled() -> None:
    """The body is held as by the oracle whose importance of the head is zero; the head trains freely."""
    twin, model = small_model(), small_model()
    twin_optimizer, optimizer = (torch.optim.Adam(m.parameters(), lr=0.01) for m in (twin, model))
    naive = NaiveSynapses(twin, C, XI)
    body = [(name, p) for name, p in model.named_parameters() if not name.startswith("3.")]
    synapses = si.SynapticIntelligence(body, optimizer, c=C, xi=XI)
    for task in range(3):
        train_naive(naive, twin, twin_optimizer, task)
        train(model, optimizer, task)
        naive.consolidate()
        synapses.consolidate()
        for name in ("3.weight", "3.bias"):
            naive.omega[name].zero_()
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.omega.items(), {name: naive.omega[name] for name, _ in body}, 1e-12)


def test_every_group_is_pulled_with_its_own_strength() -> None:
    """Against the oracle, whose omega is scaled instead: c_g * omega is the same pull as 1 * (c_g omega)."""
    twin, model = small_model(), small_model()
    strengths = {name: 0.2 if name.startswith("0.") else 3.0 for name, _ in model.named_parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in model.named_parameters() if strengths[name] == c], "c": c} for c in (0.2, 3.0)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=0.9)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=100.0, xi=XI)
    naive = NaiveSynapses(twin, 1.0, XI)
    train_naive(naive, twin, twin_optimizer, 0)
    train(model, optimizer, 0)
    naive.consolidate()
    synapses.consolidate()
    for name, c in strengths.items():
        naive.omega[name] *= c
    train_naive(naive, twin, twin_optimizer, 1)
    train(model, optimizer, 1)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.path.items(), naive.path, 1e-12)


def test_new_parameters_and_a_fresh_optimizer_at_once() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    omega = dict(synapses.omega)
    clone = small_model()
    clone.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(clone.parameters(), lr=0.05)
    with pytest.raises(ValueError, match="none of the named parameters"):
        synapses.attach(optimizer)
    synapses.attach(optimizer, clone.named_parameters())
    train(clone, optimizer, 1)
    assert float(synapses.penalty()) > 0
    assert_close(synapses.omega.items(), omega, 0)
    wide = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 3)).double()
    with pytest.raises(si.SynapseError, match="make new synapses"):
        synapses.attach(torch.optim.SGD(wide.parameters(), lr=0.1), wide.named_parameters())
    train(clone, optimizer, 1)


def test_a_replaced_parameter_is_held_too() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    new = nn.Parameter(model.get_parameter("0.weight").detach().clone())
    optimizer.param_groups[0]["params"][0] = new
    assert len(synapses.anchor) == 6  # looks, and follows
    with pytest.raises(si.SynapseError, match="has synapses already"):
        si.SynapticIntelligence([("w", new)], torch.optim.SGD([new], lr=0.1), c=C, xi=XI)


def test_a_replaced_parameter_leaves_the_optimizer_usable() -> None:
    """Adam's state keeps the old parameter alive; nobody steps it any more."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    model[0].weight = nn.Parameter(model.get_parameter("0.weight").detach().clone())
    optimizer.param_groups[0]["params"] = list(model.parameters())
    synapses.attach(optimizer, model.named_parameters())
    train(model, optimizer, 1)
    synapses.detach()
    model[0].weight = nn.Parameter(model.get_parameter("0.weight").detach().clone())
    optimizer.param_groups[0]["params"] = list(model.parameters())
    synapses.attach(optimizer, model.named_parameters())
    train(model, optimizer, 1)


def test_attaching_is_all_or_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    other = torch.optim.Adam(model.parameters(), lr=0.01)
    named = dict(model.named_parameters())
    swapped = [("0.weight", named["1.weight"]), ("1.weight", named["0.weight"]), *list(named.items())[1::2]]
    with pytest.raises(si.SynapseError, match="another known parameter"):
        synapses.attach(other, swapped)
    train(model, optimizer, 0)
    with torch.no_grad():
        named["0.weight"].add_(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", si.SynapseWarning)
        with pytest.raises(si.SynapseWarning):
            synapses.attach(other)
    train(model, optimizer, 0)
    other.step()


def test_a_scaler_goes_on_after_a_step_that_raised() -> None:
    class Failing(torch.optim.Adam):
        fail = False

        def step(self, closure: Any = None) -> Any:
            if self.fail:
                raise OSError("no luck")
            return super().step(closure)

    plain, model = small_model(torch.float32), small_model(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    plain_optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    optimizer = Failing(model.parameters(), lr=0.01, fused=True)
    plain_synapses = si.SynapticIntelligence(plain.named_parameters(), plain_optimizer, c=C, xi=XI)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(plain, plain_optimizer, 0)
    for number, (x, y) in enumerate(task_batches(0, 10, torch.float32)):
        for fail in [True, False] if number == 4 else [False]:
            optimizer.fail = fail
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            try:
                scaler.step(optimizer)
            except OSError:
                assert fail
            scaler.update()
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 1e-6)
    assert_close(synapses.path.items(), dict(plain_synapses.path), 1e-5)


def test_following_is_all_or_nothing() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    params = optimizer.param_groups[0]["params"]
    old = list(params)
    params[0] = nn.Parameter(old[0].detach() + 1)
    params[1] = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(si.SynapseError, match="make new synapses"):
        optimizer.step()
    params[:2] = old[:2]
    train(model, optimizer, 0)
    synapses.consolidate()
    fresh = nn.Parameter(old[0].detach() + 1)
    si.SynapticIntelligence([("w", fresh)], torch.optim.SGD([fresh], lr=0.1), c=C, xi=XI)


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
def test_gradients_that_are_wider_than_their_parameters() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad_dtype = torch.float32

    class Plain(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for q in self.param_groups[0]["params"]:
                q.sub_(q.grad.to(q.dtype))

    optimizer = Plain([p], {})
    synapses = si.SynapticIntelligence([("p", p)], optimizer, c=C, xi=XI)
    p.grad = torch.full((3,), 0.25)
    optimizer.step()
    assert synapses.path["p"].tolist() == [0.0625] * 3


def test_paused_steps_neither_pull_nor_integrate() -> None:
    model, plain = small_model(), small_model()
    optimizer, plain_optimizer = (torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, plain))
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    synapses.consolidate()
    train(model, optimizer, 1)
    plain.load_state_dict(model.state_dict())
    path = {name: p.clone() for name, p in synapses.path.items()}
    with synapses.paused():
        train(model, optimizer, 2)
    train(plain, plain_optimizer, 2)
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 0)
    assert_close(synapses.path.items(), path, 0)
    train(model, optimizer, 1)  # goes on without a warning of edited weights
    assert any(not torch.equal(path[name], p) for name, p in synapses.path.items())


def test_synapses_that_move_while_paused_stay_paused() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    with synapses.paused():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        synapses.attach(optimizer)
        train(model, optimizer, 0)
    assert all(float(path.abs().max()) == 0 for path in synapses.path.values())
    train(model, optimizer, 0)
    assert any(float(path.abs().max()) > 0 for path in synapses.path.values())


def test_weights_loaded_before_the_first_step_move_the_anchor() -> None:
    model, other = small_model(), small_model(seed=9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    model.load_state_dict(other.state_dict())
    assert_close(synapses.anchor.items(), dict(other.named_parameters()), 0)
    train(model, optimizer, 0)
    assert_close(synapses.anchor.items(), dict(other.named_parameters()), 0)


def test_a_model_that_changes_dtype_or_parameters_is_followed() -> None:
    """`model.double()` swaps the data; a wrapper may put new parameters of the same shape into the optimizer."""
    model = small_model(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    model.double()
    train(model, optimizer, 0)
    assert {p.dtype for p in synapses.path.values()} == {torch.float64}
    synapses.consolidate()
    for module in model:
        for name, p in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(p.detach().clone()))
    optimizer.param_groups[0]["params"] = list(model.parameters())
    twin = small_model()
    twin.load_state_dict(model.state_dict())
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    naive = NaiveSynapses(twin, C, XI)
    naive.omega, naive.anchor = dict(synapses.omega), {name: a.clone() for name, a in synapses.anchor.items()}
    train_naive(naive, twin, twin_optimizer, 1)
    train(model, optimizer, 1)
    assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
    assert_close(synapses.path.items(), naive.path, 1e-12)


def test_consolidate_returns_the_path_of_the_task() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)
    before = {name: p.clone() for name, p in synapses.path.items()}
    ended = synapses.consolidate()
    assert_close(ended.items(), before, 0)
    assert all(float(p.abs().max()) == 0 for p in synapses.path.values())
    train(model, optimizer, 1)
    assert_close(ended.items(), before, 0)  # the next task writes elsewhere


def test_the_optimizer_may_be_dropped_before_the_task_is_consolidated() -> None:
    model = small_model()

    def one_task(synapses: si.Consolidator | None) -> si.Consolidator:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if synapses is None:
            synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
        else:
            synapses.attach(optimizer)
        train(model, optimizer, 0)
        return synapses

    synapses = one_task(None)
    synapses.consolidate()
    one_task(synapses).consolidate()
    assert synapses.tasks == 2


def test_dropped_synapses_make_room_for_new_ones() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    del synapses, optimizer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    train(model, optimizer, 0)


def test_names_do_not_depend_on_wrappers() -> None:
    model = small_model()
    compiled, wrapped = nn.Module(), nn.Module()
    compiled._orig_mod = model  # as torch.compile names it
    wrapped.module = compiled  # as DDP does
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(wrapped.named_parameters(), optimizer, c=C, xi=XI)
    assert next(iter(dict(wrapped.named_parameters()))) == "module._orig_mod.0.weight"
    assert list(synapses.path) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("with_closure", [True, False])
def test_an_optimizer_whose_step_calls_its_parents(with_closure: bool) -> None:
    """Both steps fire the hooks; what the outer one does to the gradient is part of the optimizer."""

    class Halving(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(0.5)
            super().step()
            return loss

    plain, model = small_model(), small_model()
    plain_optimizer, optimizer = torch.optim.SGD(plain.parameters(), lr=0.05), Halving(model.parameters(), lr=0.1)
    a = si.SynapticIntelligence(plain.named_parameters(), plain_optimizer, c=C, xi=XI)
    b = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(3):
        train(plain, plain_optimizer, task)
        for x, y in task_batches(task, 10):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            if with_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        a.consolidate()
        b.consolidate()
    assert_close(model.named_parameters(), dict(plain.named_parameters()), 1e-12)
    assert_close(b.omega.items(), dict(a.omega), 1e-12)


@pytest.mark.parametrize("form", ["hooks", "inside"])
@pytest.mark.parametrize("moment", ["before the first step", "later"])
def test_hooks_that_were_registered_later_may_still_clip(form: str, moment: str) -> None:
    """The path takes the gradient that the optimizer gets, also where a hook that comes later changes it."""

    def run(clip_in_loop: bool) -> tuple[nn.Module, si.Consolidator]:
        model = small_model()
        if form == "inside":
            optimizer: torch.optim.Optimizer = si.optim.SGD(model.named_parameters(), lr=0.05, c=C, xi=XI)
            synapses = optimizer.synapses  # type: ignore[attr-defined]
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)

        for task in range(2):
            for number, (x, y) in enumerate(task_batches(task, 6)):
                if not clip_in_loop and (task, number) == ((0, 0) if moment == "before the first step" else (1, 0)):
                    optimizer.register_step_pre_hook(clip)
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                if clip_in_loop and (moment == "before the first step" or task == 1):
                    clip()
                optimizer.step()
            if task == 0:
                synapses.consolidate()
        return model, synapses

    model, synapses = run(clip_in_loop=False)
    expected, theirs = run(clip_in_loop=True)
    assert_close(model.named_parameters(), dict(expected.named_parameters()), 0.0)
    assert_close(synapses.path.items(), dict(theirs.path), 0.0)
    assert_close(synapses.omega.items(), dict(theirs.omega), 0.0)


def test_a_later_hook_on_an_optimizer_without_closures_is_refused_until_the_synapses_are_last() -> None:
    class Plain(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    p = nn.Parameter(torch.ones(2))
    optimizer = Plain([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=C, xi=XI)
    optimizer.register_step_pre_hook(lambda *_: None)
    p.grad = torch.ones(2)
    with pytest.raises(si.SynapseError, match="step hook was registered after the synapses"):
        optimizer.step()
    synapses.attach(optimizer)
    optimizer.step()
    assert synapses.path["w"].tolist() == pytest.approx([0.1, 0.1])


def test_a_hook_that_comes_later_may_move_the_weights_before_the_step() -> None:
    """The path starts where the optimizer starts; that weights were changed between steps is warned of."""
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=C, xi=XI)

    def shrink(*_: Any) -> None:
        with torch.no_grad():
            p.mul_(0.5)

    optimizer.register_step_pre_hook(shrink)
    for _ in range(2):
        p.grad = torch.ones(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", si.SynapseWarning)
            optimizer.step()
    assert p.tolist() == pytest.approx([0.1, 0.1])
    assert synapses.path["w"].tolist() == pytest.approx([0.2, 0.2])


def test_a_later_hook_where_the_closure_is_not_called_is_said() -> None:
    class Deaf(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()

    p = nn.Parameter(torch.ones(2))
    optimizer = Deaf([p], lr=0.1)
    si.SynapticIntelligence([("w", p)], optimizer, c=C, xi=XI)
    optimizer.register_step_pre_hook(lambda *_: None)
    p.grad = torch.ones(2)
    with pytest.raises(si.SynapseError, match="registered after the synapses, and the optimizer did not call"):
        optimizer.step()
    optimizer.step()  # by now they come last
