"""Each row of docs/errors.md: the condition, and the exception or warning that it meets."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import same, small_model, task_batches
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence import native

TABLE = Path(__file__).parent.parent / "docs" / "errors.md"
CASES: dict[str, tuple[type[Exception], Callable[[Path], Any]]] = {}
Case = Callable[[Path], Any]


def case(condition: str, expected: type[Exception]) -> Callable[[Case], Case]:
    def note(function: Case) -> Case:
        CASES[condition] = (expected, function)
        return function

    return note


class Bench:
    """A model that has learnt one task and is in the middle of the second."""

    def __init__(self, importance: Callable[[nn.Module], si.Importance] | None = None) -> None:
        self.model = small_model()
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        estimator = importance(self.model) if importance else si.PathIntegral(0.1)
        self.synapses = si.Consolidator(self.model.named_parameters(), self.optimizer, estimator, c=0.5)
        self.train(0)
        self.synapses.consolidate(task_batches(0, 1) if estimator.needs_data else None)
        self.train(1)

    def train(self, task: int, steps: int = 3) -> None:
        for x, y in task_batches(task, steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    def fails(self, action: Callable[[], Any]) -> None:
        """Run what must raise, and see that nothing of the synapses and weights has changed."""
        gradients = [p.grad for p in self.model.parameters()]
        before = copy.deepcopy((self.synapses.state_dict(), self.model.state_dict(), gradients))
        try:
            action()
        finally:
            now = (self.synapses.state_dict(), self.model.state_dict(), [p.grad for p in self.model.parameters()])
            assert all(a is b for a, b in zip(gradients, now[2], strict=True))
            assert same(before, now)


def make(**changes: Any) -> si.Consolidator:
    model = changes.pop("model", None) or small_model()
    optimizer = changes.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    named = changes.pop("named", None) or model.named_parameters()
    return si.SynapticIntelligence(named, optimizer, **{"c": 1.0, "xi": 0.1, **changes})


# Arguments.


@case("`c` is negative or not finite", ValueError)
def _(folder: Path) -> None:
    for bad in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="c must be"):
            make(c=bad)
    bench = Bench()

    def set_c() -> None:
        bench.synapses.c = -1.0

    bench.fails(set_c)


@case("`c` is not a number", TypeError)
def _(folder: Path) -> None:
    make(c="strong")


@case("`xi` is not positive and finite", ValueError)
def _(folder: Path) -> None:
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="xi must be"):
            si.PathIntegral(bad)
    make(xi=0.0)


@case("`omega_dtype` is neither bfloat16 nor None", ValueError)
def _(folder: Path) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=1.0, omega_dtype=torch.float16)


@case("`xi` is not a number", TypeError)
def _(folder: Path) -> None:
    assert si.PathIntegral(np.float32(0.5)).xi == 0.5  # type: ignore[arg-type]
    for bad in (True, torch.tensor(0.1)):
        with pytest.raises(TypeError, match="xi must be a number"):
            si.PathIntegral(bad)  # type: ignore[arg-type]
    make(xi="small")


@case("parameters without their names", TypeError)
def _(folder: Path) -> None:
    make(named=small_model().parameters())


@case("no parameters, or an iterator that was used up", ValueError)
def _(folder: Path) -> None:
    model = small_model()
    named = model.named_parameters()
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    make(model=model, named=named, optimizer=optimizer)


@case("nothing left to protect", ValueError)
def _(folder: Path) -> None:
    model = small_model()
    make(model=model, optimizer=torch.optim.SGD([{"params": list(model.parameters()), "c": None}], lr=0.1))


@case("two parameters of one name", ValueError)
def _(folder: Path) -> None:
    p, q = (nn.Parameter(torch.ones(1)) for _ in range(2))
    make(named=[("w", p), ("w", q)], optimizer=torch.optim.SGD([p, q], lr=0.1))


@case("complex or integer parameters", TypeError)
def _(folder: Path) -> None:
    p = nn.Parameter(torch.ones(1, dtype=torch.complex64))
    make(named=[("w", p)], optimizer=torch.optim.SGD([p], lr=0.1))


@case("parameters that are not initialised yet", TypeError)
def _(folder: Path) -> None:
    model = nn.LazyLinear(3)
    make(named=model.named_parameters(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@case("parameters without values, on the meta device", TypeError)
def _(folder: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 3)
    make(named=model.named_parameters(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@case("parameters that FSDP1 has flattened", TypeError)
def _(folder: Path) -> None:
    model = small_model()
    for parameter in model.parameters():
        vars(parameter)["_fsdp_flattened"] = True  # as torch marks them; tests/stacks has the real one
    make(named=model.named_parameters(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@case("parameters that are stepped inside `backward()`", TypeError)
def _(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its own parts
        from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward

    model = small_model()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    make(named=model.named_parameters(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@case("the optimizer is none", TypeError)
def _(folder: Path) -> None:
    make(optimizer=object())


class Wrapper(torch.optim.Optimizer):
    """Hides an optimizer, as Accelerate's does: a subclass whose own parts were never set up."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups


@case("the optimizer only wraps one, without hooks of its own", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    with pytest.raises(TypeError, match="wraps another"):
        bench.fails(lambda: bench.synapses.attach(Wrapper(torch.optim.Adam(bench.model.parameters()))))
    bench.train(1)  # the old one still goes
    make(model=bench.model, optimizer=Wrapper(bench.optimizer))


@case("ZeroRedundancyOptimizer", TypeError)
def _(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its own parts
        from torch.distributed.optim import ZeroRedundancyOptimizer

    # It needs no process group to be recognised.
    make(optimizer=ZeroRedundancyOptimizer.__new__(ZeroRedundancyOptimizer))


@case("DeepSpeed's ZeRO", TypeError)
def _(folder: Path) -> None:
    class DeepSpeedOptimizer:  # the root of its optimizers, which are none of torch's
        pass

    class DeepSpeedZeroOptimizer(DeepSpeedOptimizer):
        pass

    with pytest.raises(TypeError, match="FSDP2"):
        make(optimizer=DeepSpeedZeroOptimizer())
    make(optimizer=DeepSpeedZeroOptimizer())


@case("LBFGS", TypeError)
def _(folder: Path) -> None:
    model = small_model()
    make(model=model, optimizer=torch.optim.LBFGS(model.parameters()))


@case("a protected parameter that is not in the optimizer", ValueError)
def _(folder: Path) -> None:
    model = small_model()
    make(model=model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1))


@case("an optimizer that holds none of the parameters", ValueError)
def _(folder: Path) -> None:
    make(optimizer=torch.optim.SGD(small_model().parameters(), lr=0.1))


@case("a parameter that is twice in the optimizer", ValueError)
def _(folder: Path) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["params"].append(model.get_parameter("0.weight"))
    make(model=model, optimizer=optimizer)


@case("two consolidators on one parameter", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    other = torch.optim.Adam(bench.model.parameters())
    bench.fails(lambda: make(model=bench.model, optimizer=other))


@case("float16 or bfloat16 parameters", si.SynapseWarning)
def _(folder: Path) -> None:
    synapses = make(model=small_model(torch.bfloat16))
    assert {p.dtype for p in synapses.path.values()} == {torch.float32}


# Steps.


@case("a group with synapses gets `c=None`", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.optimizer.param_groups[0]["c"] = None
    bench.fails(bench.optimizer.step)


@case("a group gets a `c` that is no strength", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.optimizer.param_groups[0]["c"] = -2.0
    bench.fails(bench.optimizer.step)


@case("a sparse gradient", si.SynapseError)
def _(folder: Path) -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = make(model=model, optimizer=optimizer)
    model(torch.tensor([1, 2])).sum().backward()
    gradient = model.weight.grad
    weight = model.weight.detach().clone()
    try:
        optimizer.step()
    finally:
        assert model.weight.grad is gradient
        assert torch.equal(model.weight, weight)
        assert float(synapses.path["weight"].abs().max()) == 0


class Calls(torch.optim.SGD):
    """Calls its closure any number of times, perhaps after a move."""

    times = 1
    early = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"] if self.early else []:
            p.add_(self.early)
        for _ in range(self.times):
            with torch.enable_grad():
                closure()


def step_with_closure(times: int, early: float = 0.0) -> None:
    model = small_model()
    optimizer = Calls(model.parameters(), lr=0.1)
    make(model=model, optimizer=optimizer)
    x, y = task_batches(0, 1)[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    if not early:  # which is refused in the very first step too
        optimizer.step(closure)
    optimizer.times, optimizer.early = times, early
    optimizer.step(closure)


@case("a closure that is called twice in one step", si.SynapseError)
def _(folder: Path) -> None:
    step_with_closure(2)


@case("an optimizer that moves weights before it calls its closure", si.SynapseError)
def _(folder: Path) -> None:
    step_with_closure(1, early=0.1)


@case("a closure that is not called", si.SynapseError)
def _(folder: Path) -> None:
    step_with_closure(0)


@case("a step inside `backward()`", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    x, y = task_batches(1, 1)[0]
    bench.optimizer.zero_grad()
    weight = bench.model.get_parameter("0.weight")
    handle = weight.register_post_accumulate_grad_hook(lambda _: bench.optimizer.step())
    try:
        F.cross_entropy(bench.model(x), y).backward()
    finally:
        handle.remove()


class Failing(torch.optim.SGD):
    fail = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.fail:
            raise OSError("no luck")
        return super().step(closure)


@case("a step hook registered after the synapses, where steps take no closure", si.SynapseError)
def _(folder: Path) -> None:
    class WithoutClosure(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    bench = Bench()
    optimizer = WithoutClosure(bench.model.parameters(), lr=0.1)
    bench.synapses.attach(optimizer)
    optimizer.register_step_pre_hook(lambda *_: None)
    bench.fails(optimizer.step)


@case("new gradients on top of a step that raised", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.optimizer = optimizer = Failing(bench.model.parameters(), lr=0.05)
    bench.synapses.attach(optimizer)
    bench.train(1)
    optimizer.fail = True
    with pytest.raises(OSError, match="no luck"):
        optimizer.step()
    optimizer.fail = False
    x, y = task_batches(1, 1)[0]
    optimizer.zero_grad(set_to_none=False)
    F.cross_entropy(bench.model(x), y).backward()
    with pytest.raises(si.SynapseError, match="set_to_none=True"):
        bench.fails(optimizer.step)
    with pytest.raises(si.SynapseError, match="set_to_none=True"):
        optimizer.step()  # and again, until it is done
    bench.train(1, steps=1)
    optimizer.fail = True
    with pytest.raises(OSError, match="no luck"):
        optimizer.step()
    F.cross_entropy(bench.model(x), y).backward()  # accumulated
    with bench.synapses.paused():
        pass


@case("parameter groups that were taken apart", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    del bench.optimizer.param_groups[0]["params"][-1]
    bench.optimizer.step()


@case("stepping a detached optimizer", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    old = bench.optimizer
    bench.optimizer = torch.optim.Adam(bench.model.parameters())
    bench.synapses.attach(bench.optimizer)
    with pytest.raises(si.SynapseError, match="detached or moved"):
        old.step()
    bench.train(1)  # the new one goes
    bench.synapses.detach()
    with pytest.raises(si.SynapseError, match="detached or moved"):
        bench.optimizer.step()
    bench.synapses.attach(bench.optimizer)
    bench.train(1)  # and back
    bench.fails(old.step)


@case("a new optimizer that holds other parameters", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    head, body = [*bench.model[3].parameters()], [*bench.model[:3].parameters()]
    groups: list[dict[str, Any]] = [{"params": body}, {"params": head, "c": None}]
    other = torch.optim.SGD(groups, lr=0.1)
    try:
        bench.fails(lambda: bench.synapses.attach(other))
    finally:
        bench.train(1)  # still on the old optimizer


@case("new parameters of other values in the place of the old", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    other = small_model(seed=1)
    bench.synapses.attach(torch.optim.SGD(other.parameters(), lr=0.1), other.named_parameters())


@case("a parameter replaced by another shape", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    wide = nn.Parameter(torch.zeros(9, 6, dtype=torch.float64))
    for place in ("optimizer", "data"):
        bench = Bench()
        if place == "optimizer":
            bench.optimizer.param_groups[0]["params"][0] = wide
        else:
            bench.model.get_parameter("0.weight").data = wide.data
            bench.model.get_parameter("0.weight").grad = None
        with pytest.raises(si.SynapseError, match=r"\[8, 6\] and has \[9, 6\]"):
            bench.optimizer.step()
    bench.synapses.consolidate()


@case("a known parameter in the place of another", si.SynapseError)
def _(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make(model=model, optimizer=optimizer)
    optimizer.param_groups[0]["params"].reverse()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


@case("weights edited between steps", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    path = {name: p.clone() for name, p in bench.synapses.path.items()}
    with torch.no_grad():
        bench.model.get_parameter("0.weight").add_(100.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bench.train(1, steps=1)
        with torch.no_grad():
            bench.model.get_parameter("0.weight").sub_(100.0)
        bench.train(1, steps=1)
    assert [w.category for w in caught] == [si.SynapseWarning]  # said once
    # A movement of 100 would have shown in the path: the gradients here are about 0.01 to 0.1.
    moved = max(float((p - path[name]).abs().max()) for name, p in bench.synapses.path.items())
    assert moved < 0.1
    warnings.warn(str(caught[0].message), si.SynapseWarning, stacklevel=1)


@case("a gradient that is not finite", si.SynapseWarning)
def _(folder: Path) -> None:
    class Clipping(torch.optim.SGD):
        """A step that clips by value survives an infinite gradient."""

        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.grad.clamp_(-1, 1)
            return super().step(closure)

    bench = Bench()
    optimizer = Clipping(bench.model.parameters(), lr=0.05)
    bench.synapses.attach(optimizer)
    for p in bench.model.parameters():
        assert p.grad is not None
        p.grad.zero_()
    gradient = bench.model.get_parameter("0.weight").grad
    assert isinstance(gradient, Tensor)
    gradient[0, 0] = torch.inf
    gradient[0, 1] = 1.0
    before = bench.synapses.path["0.weight"].clone()
    optimizer.step()
    added = bench.synapses.path["0.weight"] - before
    assert float(added[0, 0]) == 0
    assert float(added[0, 1]) != 0
    bench.synapses.consolidate()
    bench.synapses.state_dict()  # said once


# The end of a task.


@case("`consolidate()` after zero steps", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.consolidate()
    bench.fails(bench.synapses.consolidate)


@case("`consolidate()` with a parameter that is not finite", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.model.get_parameter("3.bias").data[0] = torch.inf
    with pytest.raises(si.SynapseError, match=re.escape("['3.bias'] is not finite")):
        bench.synapses.consolidate()
    bench.fails(bench.synapses.consolidate)


@case("`consolidate()` without the data that the estimator needs", TypeError)
def _(folder: Path) -> None:
    bench = Bench(lambda model: si.Fisher(model, F.cross_entropy, kind="exact"))
    bench.fails(bench.synapses.consolidate)


@case("`consolidate(data)` where the estimator uses none", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.consolidate(task_batches(1, 1)))


@case("a penalty of exactly zero in the second task", si.SynapseWarning)
def _(folder: Path) -> None:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    synapses = make(model=model, optimizer=optimizer)
    for task in range(2):
        for x, y in task_batches(task, 2):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        synapses.consolidate()


# State.


def load_changed(change: Callable[[dict[str, Any]], Any]) -> None:
    bench = Bench()
    state = copy.deepcopy(bench.synapses.state_dict())
    change(state)
    bench.fails(lambda: bench.synapses.load_state_dict(state))


@case("state with other keys, or of another schema", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="no state of synapses"):
        load_changed(lambda state: state.pop("omega"))
    with pytest.raises(si.SynapseError, match="cannot be"):
        load_changed(lambda state: state.update(steps="many"))
    with pytest.raises(si.SynapseError, match="no tensors"):
        load_changed(lambda state: state.update(omega=[1.0]))
    with pytest.raises(si.SynapseError, match="untouched"):
        load_changed(lambda state: state.update(untouched="no"))
    with pytest.raises(si.SynapseError, match="no task was consolidated"):
        load_changed(lambda state: state.update(tasks=0))
    load_changed(lambda state: state.update(schema=99))


@case("state of other names", si.SynapseError)
def _(folder: Path) -> None:
    load_changed(lambda state: state["omega"].update(other=state["omega"].pop("0.weight")))


@case("state of other shapes", si.SynapseError)
def _(folder: Path) -> None:
    load_changed(lambda state: state["anchor"].update({"0.weight": torch.zeros(2, 2)}))


@case("state of another estimator, or of other settings", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="fisher"):
        load_changed(lambda state: state.update(estimator="fisher"))
    load_changed(lambda state: state["settings"].update(xi=0.2))


@case("state that is not finite", si.SynapseError)
def _(folder: Path) -> None:
    load_changed(lambda state: state["omega"]["0.weight"].fill_(torch.nan))


@case("state with an omega, but without a task", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.load_state_dict({**bench.synapses.state_dict(), "tasks": 0}))


@case("state with another `c`", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    state = bench.synapses.state_dict()
    bench.synapses.c = 7.0
    with pytest.warns(si.SynapseWarning):
        bench.synapses.load_state_dict(state)
    assert bench.synapses.c == 0.5
    bench.synapses.c = 7.0
    bench.train(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", si.SynapseWarning)
        with pytest.raises(si.SynapseWarning):
            bench.fails(lambda: bench.synapses.load_state_dict(state))
    assert bench.synapses.c == 7.0
    bench.synapses.load_state_dict(state)


@case("copying or pickling synapses", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(bench.synapses)
    pickle.dumps(bench.synapses)


@case("no importance file", FileNotFoundError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.load(folder / "none.safetensors"))


@case("an importance file that is damaged or foreign", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    path = folder / "importance.safetensors"
    bench.synapses.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    bench.fails(lambda: bench.synapses.load(path))


# Fisher.


def fisher_bench(kind: Any = "exact") -> Bench:
    return Bench(lambda model: si.Fisher(model, F.cross_entropy, kind=kind))


@case("Fisher of an unknown kind", ValueError)
def _(folder: Path) -> None:
    fisher_bench("diagonal")


@case("Fisher protects a parameter that is not in its model", si.SynapseError)
def _(folder: Path) -> None:
    Bench(lambda model: si.Fisher(small_model(), F.cross_entropy, kind="exact"))


@case("Fisher gets data that is not batches", TypeError)
def _(folder: Path) -> None:
    bench = fisher_bench()
    no_batches: Any = task_batches(1, 1)[0]
    bench.fails(lambda: bench.synapses.consolidate(no_batches))


@case("Fisher gets no samples", si.SynapseError)
def _(folder: Path) -> None:
    bench = fisher_bench()
    bench.fails(lambda: bench.synapses.consolidate([]))


@case("exact Fisher of outputs that are no logits", ValueError)
def _(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.mse_loss, kind="exact")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
    synapses.consolidate([(torch.zeros(2, 6), torch.zeros(2))])


@case("a model that vmap cannot run", si.SynapseWarning)
def _(folder: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            return y * (2.0 if float(x.detach().sum()) > 0 else 1.0)

    model = Branches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.cross_entropy, kind="empirical")
    si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0).consolidate(task_batches(0, 1))


# Optimizers with the synapses inside.


class InsideBench:
    """As Bench, with the synapses inside the optimizer."""

    def __init__(self) -> None:
        self.model = small_model()
        self.optimizer = si.optim.Adam(self.model.named_parameters(), lr=0.01, c=0.5, xi=0.1)
        self.train(0)
        self.optimizer.consolidate()
        self.train(1)

    def train(self, task: int) -> None:
        for x, y in task_batches(task, 3):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    def fails(self, action: Callable[[], Any]) -> None:
        """Run what must raise, and see that weights, moments and synapses stay."""
        before = copy.deepcopy((self.optimizer.state_dict(), self.model.state_dict()))
        try:
            action()
        finally:
            assert same(before, (self.optimizer.state_dict(), self.model.state_dict()))


@case("the state of an optimizer with synapses inside is cleared", si.SynapseError)
def _(folder: Path) -> None:
    bench = InsideBench()
    weights = copy.deepcopy(bench.model.state_dict())
    bench.optimizer.state.clear()
    with pytest.raises(si.SynapseError, match="reset_moments"):
        bench.train(1)
    assert same(weights, bench.model.state_dict())
    bench.optimizer.reset_moments()
    bench.train(1)
    bench.optimizer.state.clear()
    bench.train(1)


@case("a group with synapses that comes later", si.SynapseError)
def _(folder: Path) -> None:
    bench = InsideBench()
    bench.fails(lambda: bench.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}))


@case("saving importance of parameters without names", si.SynapseError)
def _(folder: Path) -> None:
    optimizer = si.optim.Adam(small_model().parameters(), c=0.5, xi=0.1)
    optimizer.synapses.save(folder / "importance.safetensors")


@case("taking over synapses of another estimator", si.SynapseError)
def _(folder: Path) -> None:
    bench = fisher_bench()
    bench.fails(lambda: si.optim.Adam(bench.model.named_parameters(), c=0.5, xi=0.1, synapses=bench.synapses))


@case("an optimizer's state without synapses", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = InsideBench()
    plain = torch.optim.Adam(small_model().parameters())
    bench.optimizer.load_state_dict(plain.state_dict())


@case("an optimizer's state of another optimizer", si.SynapseError)
def _(folder: Path) -> None:
    bench = InsideBench()
    other = si.optim.SGD(small_model().named_parameters(), lr=0.1, c=0.5, xi=0.1)
    bench.fails(lambda: bench.optimizer.load_state_dict(other.state_dict()))


@case("an optimizer's state with another `c` or `xi`", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = InsideBench()
    state = copy.deepcopy(bench.optimizer.state_dict())
    bench.optimizer.param_groups[0]["xi"] = 0.2
    bench.optimizer.load_state_dict(state)


@case("an optimizer's state with moments of other shapes", si.SynapseError)
def _(folder: Path) -> None:
    bench = InsideBench()
    state = copy.deepcopy(bench.optimizer.state_dict())
    state["state"][0]["exp_avg"] = torch.zeros(5)
    bench.fails(lambda: bench.optimizer.load_state_dict(state))


@case("an optimizer's state that was flattened", si.SynapseError)
def _(folder: Path) -> None:
    bench = InsideBench()
    state = copy.deepcopy(bench.optimizer.state_dict())
    # What torch.distributed.checkpoint's flattening leaves of a group: the options of torch's own optimizer.
    for group in state["param_groups"]:
        for name in ("tasks", "steps", "untouched"):
            del group[name]
    bench.fails(lambda: bench.optimizer.load_state_dict(state))


@case("an optimizer's state that leaves out what is frozen", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = InsideBench()
    next(bench.model.parameters()).requires_grad_(False)
    state = copy.deepcopy(bench.optimizer.state_dict())
    del state["state"][0]
    bench.optimizer.load_state_dict(state)


@case("attaching synapses to an optimizer that has its own", si.SynapseError)
def _(folder: Path) -> None:
    bench, others = InsideBench(), Bench()
    others.synapses.detach()
    mine = si.optim.Adam(others.model.named_parameters(), c=0.5, xi=0.1)
    mine.synapses.detach()
    bench.fails(lambda: others.synapses.attach(mine))


@case("copying or pickling an optimizer with synapses inside", TypeError)
def _(folder: Path) -> None:
    bench = InsideBench()
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(bench.optimizer)
    pickle.dumps(bench.optimizer)


@case("an optimizer with synapses inside finds no C compiler", si.SynapseWarning)
def _(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernel", lambda dtype: f"no compiler in this test of {dtype}")
        InsideBench()


@case("a cache folder that others may write to", si.SynapseWarning)
def _(folder: Path) -> None:
    cache = folder / "synaptic-intelligence"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(native, "kernel", native.kernel.__wrapped__)
        si.optim.Adam(small_model().named_parameters(), c=0.5, xi=0.1)


@case("a compiler without OpenMP, and several threads", si.SynapseWarning)
def _(folder: Path) -> None:
    class Library:
        """A kernel that is never called here."""

        @staticmethod
        def shares_work() -> int:
            return 0

    native.warn_of_one_thread.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernel", lambda dtype: Library())
        patch.setattr(torch, "get_num_threads", lambda: 2)
        si.optim.Adam(small_model().named_parameters(), c=0.5, xi=0.1)
    native.warn_of_one_thread.cache_clear()


@case("a parameter that the compiled step cannot walk over", si.SynapseWarning)
def _(folder: Path) -> None:
    native.warn_of_no_kernel.cache_clear()  # each reason is told once
    p = nn.Parameter(torch.ones(2, 3).T)
    optimizer = si.optim.Adam([("p", p)], c=0.5, xi=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    native.warn_of_no_kernel.cache_clear()


# A strength for each replicate.


def stacked_synapses(optimizer: Callable[..., torch.optim.Optimizer], *shape: int) -> si.Consolidator:
    p = nn.Parameter(torch.ones(shape))
    return si.SynapticIntelligence([("w", p)], optimizer([p], lr=0.1), c=torch.tensor([0.0, 0.5]), xi=0.1)


@case("a strength for each replicate that is no row of them", ValueError)
def _(folder: Path) -> None:
    p = nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match="must be on the CPU"):
        si.SynapticIntelligence([("w", p)], torch.optim.SGD([p]), c=torch.ones(2, device="meta"), xi=0.1)
    si.SynapticIntelligence([("w", p)], torch.optim.SGD([p]), c=torch.ones(2, 1), xi=0.1)


@case("a strength for each replicate inside an optimizer", TypeError)
def _(folder: Path) -> None:
    p = nn.Parameter(torch.ones(2, 3))
    si.optim.Adam([("w", p)], c=torch.ones(2), xi=0.1)  # type: ignore[arg-type]


@case("a strength for each replicate, and a parameter that is not stacked", ValueError)
def _(folder: Path) -> None:
    stacked_synapses(torch.optim.SGD, 3, 2)


@case("a strength for each replicate, and an optimizer that may mix them", TypeError)
def _(folder: Path) -> None:
    stacked_synapses(torch.optim.Adafactor, 2, 3)


@pytest.mark.parametrize("condition", list(CASES))
def test_row(condition: str, tmp_path: Path) -> None:
    expected, function = CASES[condition]
    if issubclass(expected, Warning):
        with pytest.warns(expected) as warned:
            function(tmp_path)
        assert {Path(w.filename) for w in warned} == {Path(__file__)}  # it points at the user's line
    else:
        with pytest.raises(expected) as caught:
            function(tmp_path)
        assert caught.type is expected


def test_the_table_lists_these_cases_and_no_others() -> None:
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| .+ \|$", TABLE.read_text(), flags=re.MULTILINE)
    assert rows == [(condition, expected.__name__) for condition, (expected, _) in CASES.items()]
