"""Each row of docs/errors.md: the condition, and the exception or warning that it meets."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import same, small_model, task_batches
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from twins import compiled_with, no_kernel

import synaptic_intelligence as si
from synaptic_intelligence import checkpoint, native
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.triggers import Every, Plateau

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


def after_a_task(surgery: si.Surgery, edit: Callable[[nn.Module], None] | None = None) -> None:
    """Attach the synapses to an optimizer of a model with five outputs in the place of three, or edited otherwise."""
    bench = Bench()
    bench.synapses.consolidate()
    other = copy.deepcopy(bench.model)
    if edit is None:
        assert isinstance(other, nn.Sequential)
        old, other[3] = other[3], nn.Linear(8, 5, dtype=torch.float64)
        with torch.no_grad():
            for new, was in zip(other[3].parameters(), old.parameters(), strict=True):
                new[:3] = was
    else:
        edit(other)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    bench.fails(lambda: bench.synapses.attach(optimizer, other.named_parameters(), surgery=surgery))


@case("surgery in the middle of a task that has a path", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    optimizer = torch.optim.SGD(bench.model.parameters(), lr=0.05)
    named = bench.model.named_parameters()
    bench.fails(lambda: bench.synapses.attach(optimizer, named, surgery=si.Surgery(replaced=["3"])))


@case("a change of the model that surgery does not name", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match=r"'3.weight' \[3, 8\] -> \[5, 8\], '3.bias' \[3\] -> \[5\] changed"):
        after_a_task(si.Surgery())
    after_a_task(si.Surgery(resized=["3.weight"]))


@case("surgery that names what did not change so", si.SynapseError)
def _(folder: Path) -> None:
    for wrong in (si.Surgery(resized=["3", "0"]), si.Surgery(resized=["3"], added=["4"]), si.Surgery(removed=["3"])):
        with pytest.raises(si.SynapseError, match=r"has the shape that it had|the name of nothing|are still there"):
            after_a_task(wrong)
    after_a_task(si.Surgery(resized=["3"], moved=["0"]))


@case("one parameter in two fields of surgery", si.SynapseError)
def _(folder: Path) -> None:
    after_a_task(si.Surgery(resized=["3"], replaced=["3.bias"]))


@case("a renaming to a name that another has, or to none", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="renamed leaves nothing of the name"):
        after_a_task(si.Surgery(resized=["3"], renamed={"0.weight": ""}))
    after_a_task(si.Surgery(resized=["3"], renamed={"0.weight": "0.bias"}))


@case("a resized parameter without its old values", si.SynapseError)
def _(folder: Path) -> None:
    def edit(model: nn.Module) -> None:
        model.add_module("3", nn.Linear(8, 5, dtype=torch.float64))

    after_a_task(si.Surgery(resized=["3"]), edit)


@case("surgery on weights that are not finite", si.SynapseError)
def _(folder: Path) -> None:
    def edit(model: nn.Module) -> None:
        nn.init.constant_(model.get_parameter("0.weight"), torch.nan)

    after_a_task(si.Surgery(moved=["0.weight"]), edit)


@case("surgery on a state that does not agree with itself", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.consolidate()
    state = {**bench.synapses.state_dict(), "omega": {}}
    bench.fails(lambda: si.Surgery().state(state, bench.model.named_parameters()))


@case("other values after surgery in what it does not name", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.consolidate()
    other = small_model(seed=1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    bench.synapses.attach(optimizer, other.named_parameters(), surgery=si.Surgery(replaced=["3"]))


def grown_in_place(estimator: Callable[[nn.Module], si.Importance] | None = None) -> Bench:
    """A bench between two tasks, whose last layer has two outputs more; its optimizer has momentum."""
    bench = Bench(estimator)
    bench.synapses.attach(torch.optim.SGD(bench.model.parameters(), lr=0.05, momentum=0.5))
    bench.optimizer = bench.synapses._binding.optimizer
    bench.train(1)
    bench.synapses.consolidate(task_batches(1, 1) if estimator else None)
    for name in ("3.weight", "3.bias"):
        p = bench.model.get_parameter(name)
        p.data, p.grad = torch.cat([p.data, torch.zeros_like(p.data[:2])]), None
    return bench


@case("a resize in place whose old values nobody knows", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = grown_in_place()
    bench.model.get_parameter("3.bias").data[0] += 1
    named, optimizer = bench.model.named_parameters(), torch.optim.SGD(bench.model.parameters(), lr=0.05)
    bench.synapses.attach(optimizer, named, surgery=si.Surgery(resized=["3"]))


@case("an optimizer that goes on with moments of an old shape", si.SynapseError)
def _(folder: Path) -> None:
    bench, surgery = grown_in_place(), si.Surgery(resized=["3"])
    bench.fails(lambda: bench.synapses.attach(bench.optimizer, bench.model.named_parameters(), surgery=surgery))


@case("an optimizer that goes on with the moments of a replaced layer", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = grown_in_place()
    for name in ("3.weight", "3.bias"):
        del bench.optimizer.state[bench.model.get_parameter(name)]
    surgery = si.Surgery(replaced=["0"], resized=["3"])
    bench.synapses.attach(bench.optimizer, bench.model.named_parameters(), surgery=surgery)


@case("surgery after which the estimator has another model", si.SynapseError)
def _(folder: Path) -> None:
    bench = grown_in_place(si.MAS)
    other, surgery = copy.deepcopy(bench.model), si.Surgery(resized=["3"])
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    bench.fails(lambda: bench.synapses.attach(optimizer, other.named_parameters(), surgery=surgery))


@case("names of surgery that are no list of names", TypeError)
def _(folder: Path) -> None:
    with pytest.raises(TypeError, match="renamed must be old names with their new ones"):
        si.Surgery(renamed=["head"])  # type: ignore[arg-type]
    si.Surgery(resized="head")


@case("names of surgery with a dot at an end, or renamed to themselves", ValueError)
def _(folder: Path) -> None:
    with pytest.raises(ValueError, match="the names that they had"):
        si.Surgery(renamed={"head": "head"})
    si.Surgery(resized=["head."])


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


@case("a pull that SGD cannot follow", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.c = 1e6
    bench.synapses.consolidate()


@case("a pull that SGD cannot follow since `lr` or `c` was raised", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    bench.optimizer.param_groups[0]["lr"] = 1e6
    for p in bench.model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(128):
        bench.optimizer.step()


@case("steps that leave most numbers in 16 bits where they were", si.SynapseWarning)
def _(folder: Path) -> None:
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([p], lr=1e-9)
    with pytest.warns(si.SynapseWarning, match="parameters are torch.bfloat16"):
        synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
    for _ in range(128):
        p.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step()
    synapses.consolidate()


@case("targets that are no tensor", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.observe(1.0, [0, 1]))  # type: ignore[arg-type]


@case("a loss to diagnose with that is no number", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.diagnose("small"))  # type: ignore[arg-type]


@case("a loss to diagnose with that is several numbers", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.diagnose(torch.ones(2)))


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
    for steps in ("many", -1, 10**5000):
        with pytest.raises(si.SynapseError, match=r"steps=.*, which must be a whole number"):
            load_changed(partial(dict.update, steps=steps))
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


@case("an importance file that is replaced all the time", OSError)
def _(folder: Path) -> None:
    make().save(folder / "a")
    moments = count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_identity", lambda path: next(moments))
        read_importance(folder / "a")


def merge(folder: Path, change: Callable[[si.Consolidator], Any] | None = None, **options: Any) -> None:
    """Merge the importance of two models; the second's is changed before it is saved."""
    for name in ("one", "two"):
        bench = Bench()
        bench.synapses.consolidate()
        if name == "two" and change:
            change(bench.synapses)
        bench.synapses.save(folder / name)
    before = (folder / "two").read_bytes()
    try:
        si.merge_importance([folder / "one", folder / "two"], folder / "two", **options)
    except (si.SynapseError, TypeError, ValueError):
        assert (folder / "two").read_bytes() == before
        raise


def other_file(folder: Path, missing: Any = "refuse", **changes: Any) -> None:
    """Write what :func:`merge` would, but for some fields of the second file, and merge it with the first."""
    merge(folder, c=[1.0, 1.0])
    file = read_importance(folder / "one")
    write_importance(replace(file, **changes), folder / "two")
    si.merge_importance([folder / "one", folder / "two"], folder / "both", missing=missing)


@case("merging fewer than two importance files, or one twice", ValueError)
def _(folder: Path) -> None:
    merge(folder)
    with pytest.raises(ValueError, match="given twice"):
        si.merge_importance([folder / "one", folder / "one"], folder / "both")
    si.merge_importance([folder / "one"], folder / "both")


@case("merging with files or strengths that are no lists", TypeError)
def _(folder: Path) -> None:
    with pytest.raises(TypeError, match="a list of paths"):
        si.merge_importance("one", folder / "both")
    merge(folder, c=0.5)


@case("merging with strengths that are not one for each file", ValueError)
def _(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"c of .*two must be"):
        merge(folder, c=[1.0, -1.0])
    merge(folder, c=[1.0])


@case("merging with an unknown `missing`", ValueError)
def _(folder: Path) -> None:
    merge(folder, missing="zero")


@case("merging a file in the middle of a task", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.save(folder / "begun")
    merge(folder)
    si.merge_importance([folder / "one", folder / "begun"], folder / "both")


@case("merging files of other estimators or settings", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="of fisher"):
        other_file(folder, estimator="fisher")
    other_file(folder, settings={"xi": 0.2})


@case("merging files whose importance began otherwise", si.SynapseError)
def _(folder: Path) -> None:
    other_file(folder, origin="uniform, value = 1.0, weight = 1")


@case("merging files of other names or shapes", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="different shapes"):
        other_file(folder, "free", omega={"0.weight": torch.ones(2)}, anchor={"0.weight": torch.ones(2)})
    other_file(folder, omega={}, anchor={})


@case("merging where a sum is too large or too small to store", si.SynapseError)
def _(folder: Path) -> None:
    with pytest.raises(si.SynapseError, match="rounds to zero everywhere"):
        merge(folder, c=[1e-300, 1e-300], merged_c=1e300)
    merge(folder, c=[1e300, 1e300], merged_c=1e-300)


@case("merging a file that adds nothing", si.SynapseWarning)
def _(folder: Path) -> None:
    def idle(synapses: si.Consolidator) -> None:
        synapses.c = 0.0

    merge(folder, idle)


@case("merging into a file that pulls nothing", si.SynapseWarning)
def _(folder: Path) -> None:
    merge(folder, c=[0.0, 0.0])


@case("merging a file whose parameter groups had a `c` of their own", si.SynapseWarning)
def _(folder: Path) -> None:
    other_file(folder, own_c=True)


@case("inspecting with a `top` that is no count", ValueError)
def _(folder: Path) -> None:
    si.inspect_importance(folder / "importance.safetensors", top=-1)


# Fisher.


def fisher_bench(kind: Any = "exact") -> Bench:
    return Bench(lambda model: si.Fisher(model, F.cross_entropy, kind=kind))


@case("Fisher of an unknown kind", ValueError)
def _(folder: Path) -> None:
    fisher_bench("diagonal")


def estimators(model: nn.Module) -> list[si.Importance]:
    short_path = si.ShortPath(model, F.cross_entropy, lr=0.1, xi=0.1)
    return [si.MAS(model), short_path, si.Fisher(model, F.cross_entropy, kind="exact")]


def bootstrapped(importance: si.Importance, data: Any, model: nn.Module) -> None:
    """Fill the importance of a model, which must fail and leave no synapses with any."""
    synapses = make(model=model)
    try:
        synapses.bootstrap(importance, data)
    finally:
        assert synapses.tasks == 0
        synapses.detach()


@case("Fisher, MAS or ShortPath protects a parameter that is not in its model", si.SynapseError)
def _(folder: Path) -> None:
    for estimator in estimators(small_model()):
        with pytest.raises(si.SynapseError, match="give it the same model"):
            bootstrapped(estimator, task_batches(0, 1), small_model())
    Bench(lambda model: si.Fisher(small_model(), F.cross_entropy, kind="exact"))


@case("Fisher, MAS or ShortPath gets data that is not batches", TypeError)
def _(folder: Path) -> None:
    bench = fisher_bench()
    no_batches: Any = task_batches(1, 1)[0]
    model = small_model()
    for estimator in estimators(model):
        with pytest.raises(TypeError, match="wrap a single batch in a list"):
            bootstrapped(estimator, no_batches, model)
    bench.fails(lambda: bench.synapses.consolidate(no_batches))


@case("Fisher, MAS or ShortPath gets no samples", si.SynapseError)
def _(folder: Path) -> None:
    bench = fisher_bench()
    model = small_model()
    for estimator in estimators(model):
        with pytest.raises(si.SynapseError, match="data held no samples"):
            bootstrapped(estimator, [], model)
    bench.fails(lambda: bench.synapses.consolidate([]))


@case("exact Fisher of outputs that are no logits", ValueError)
def _(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.mse_loss, kind="exact")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
    synapses.consolidate([(torch.zeros(2, 6), torch.zeros(2))])


def consolidate_with(loss: Any) -> None:
    bench = fisher_bench("empirical")
    importance = bench.synapses.importance
    assert isinstance(importance, si.Fisher)
    importance.loss = loss
    bench.fails(lambda: bench.synapses.consolidate(task_batches(1, 1)))


@case("a loss of Fisher that is no tensor", TypeError)
def _(folder: Path) -> None:
    consolidate_with(lambda output, target: 1.0)


@case("a loss of Fisher that is several numbers for one sample", ValueError)
def _(folder: Path) -> None:
    consolidate_with(lambda output, target: output)


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


# What fills the importance of a model that was trained without synapses.


@case("MAS of a model that returns no tensor", ValueError)
def _(folder: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    model = Pair()
    bootstrapped(si.MAS(model), task_batches(0, 1), model)


@case("a short path at a rate or a damping that is not positive and finite", ValueError)
def _(folder: Path) -> None:
    with pytest.raises(ValueError, match="lr must be positive and finite"):
        si.ShortPath(small_model(), F.cross_entropy, lr=0.0, xi=0.1)
    si.ShortPath(small_model(), F.cross_entropy, lr=0.1, xi=float("nan"))


@case("a short path that runs off to what is not finite", si.SynapseError)
def _(folder: Path) -> None:
    model = nn.Linear(6, 3, dtype=torch.float64)
    data = [(x, x[:, :3]) for x, _ in task_batches(0, 50)]
    bootstrapped(si.ShortPath(model, F.mse_loss, lr=1e9, xi=0.1), data, model)


@case("a short path of sharded parameters", si.SynapseError)
def _(folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=0, world_size=1)
    try:
        model = small_model()
        fully_shard(model)
        bootstrapped(si.ShortPath(model, F.cross_entropy, lr=0.1, xi=0.1), task_batches(0, 1), model)
    finally:
        torch.distributed.destroy_process_group()


@case("a uniform importance that is not positive and finite", ValueError)
def _(folder: Path) -> None:
    si.Uniform(0.0)


# Triggers.


def plateau(**changes: Any) -> Plateau:
    return Plateau(**{"window": 3, "mean_below": 0.1, "std_below": 0.1, **changes})


@case("a trigger of no whole number of steps, or losses", ValueError)
def _(folder: Path) -> None:
    with pytest.raises(ValueError, match="window must be a whole number of at least 2"):
        plateau(window=1)
    Every(0)


@case("a trigger whose thresholds or `decay` cannot be", ValueError)
def _(folder: Path) -> None:
    for changes in ({"mean_below": float("nan")}, {"std_below": 0.0}, {"peak_stds": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} must be"):
            plateau(**changes)
    Every(10, decay=1.5)


@case("a trigger whose arguments are not numbers", TypeError)
def _(folder: Path) -> None:
    with pytest.raises(TypeError, match="mean_below must be a number"):
        plateau(mean_below="low")
    Every("10")  # type: ignore[arg-type]


@case("a plateau is looked for without the loss", TypeError)
def _(folder: Path) -> None:
    plateau().fires(None)


@case("a loss that is not finite, where a plateau is looked for", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.trigger = plateau()
    assert not bench.synapses.observe(float("nan"))


@case("a trigger with an estimator that needs data", TypeError)
def _(folder: Path) -> None:
    bench = Bench(lambda model: si.Fisher(model, F.cross_entropy, kind="exact"))

    def set_trigger() -> None:
        bench.synapses.trigger = Every(10)

    bench.fails(set_trigger)


@case("a trigger that is none", TypeError)
def _(folder: Path) -> None:
    class Deaf(Every):  # type: ignore[misc]
        needs_loss = None  # type: ignore[assignment]

    synapses = make()
    for none, why in ((7, r"no fires\(\)"), (Deaf(3), "no needs_loss")):
        with pytest.raises(TypeError, match=why):
            synapses.trigger = none  # type: ignore[assignment]
    assert synapses.trigger is None
    synapses.trigger = Every  # type: ignore[assignment]


@case("a trigger whose `decay` bfloat16 would round away", ValueError)
def _(folder: Path) -> None:
    make(omega_dtype=torch.bfloat16).trigger = Every(3, decay=0.999)


@case("state of another trigger, of other settings, or damaged", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.trigger = plateau()
    state = bench.synapses.state_dict()
    bad = [Every(3).state_dict(), plateau(window=4).state_dict(), plateau(decay=0.5).state_dict()]
    for trigger in bad:
        with pytest.raises(si.SynapseError, match="the state "):
            bench.fails(lambda trigger=trigger: bench.synapses.load_state_dict({**state, "trigger": trigger}))  # type: ignore[misc]
    infinite = {**plateau().state_dict(), "losses": torch.full((3,), float("inf"), dtype=torch.float64)}
    bench.fails(lambda: bench.synapses.load_state_dict({**state, "trigger": infinite}))


@case("state with a trigger, and there is none", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.load_state_dict({**bench.synapses.state_dict(), "trigger": Every(3).state_dict()})


@case("state without a trigger, and there is one", si.SynapseWarning)
def _(folder: Path) -> None:
    bench = Bench()
    state = bench.synapses.state_dict()
    bench.synapses.trigger = Every(3)
    bench.synapses.load_state_dict(state)


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


@case("a step that torch.compile cannot make", si.SynapseWarning)
def _(folder: Path) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such backend in this test")

    p = nn.Parameter(torch.ones(2))
    with no_kernel(), compiled_with(broken):
        optimizer = si.optim.Adam([("p", p)], c=0.5, xi=0.1, compiled=True)
        p.grad = torch.ones_like(p)
        optimizer.step()


@case("`compiled=True` for parameters whose step is not compiled", si.SynapseWarning)
def _(folder: Path) -> None:
    class Own(nn.Parameter):
        pass

    p = Own(torch.ones(2))
    with no_kernel():
        optimizer = si.optim.SGD([("p", p)], lr=0.1, c=0.5, xi=0.1, compiled=True)
        p.grad = torch.ones(2)
        optimizer.step()


@case("gradients that come and go under `compiled=True`", si.SynapseWarning)
def _(folder: Path) -> None:
    named = [(f"p{i}", nn.Parameter(torch.ones(i + 1))) for i in range(5)]
    with no_kernel(), compiled_with(None):
        optimizer = si.optim.SGD(named, lr=0.1, c=0.5, xi=0.1, compiled=True)
        for which in range(1, 18):
            for i, (_, p) in enumerate(named):
                p.grad = torch.ones_like(p) if which >> i & 1 else None
            optimizer.step()


@case("`compiled=True` with `fused=True` on a device", ValueError)
def _(folder: Path) -> None:
    with FakeTensorMode():
        p = nn.Parameter(torch.ones(2, device="cuda"))
        si.optim.Adam([("p", p)], fused=True, compiled=True, c=0.5, xi=0.1)


# Around the second task.


@case("a `decay` that is not above 0 and at most 1", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.consolidate(decay=1.5))


@case("a `decay` that bfloat16 would round away", ValueError)
def _(folder: Path) -> None:
    make(omega_dtype=torch.bfloat16).consolidate(decay=0.999)


@case("`bootstrap` after a step or a task", si.SynapseError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.bootstrap(si.Uniform()))


@case("`bootstrap` without an estimator", si.SynapseWarning)
def _(folder: Path) -> None:
    make().bootstrap()


@case("`bootstrap` with data, and no estimator", TypeError)
def _(folder: Path) -> None:
    make().bootstrap(data=task_batches(0, 1))


@case("`bootstrap` with the path integral", ValueError)
def _(folder: Path) -> None:
    make().bootstrap(si.PathIntegral(0.1))


@case("`bootstrap` with what is no estimator", TypeError)
def _(folder: Path) -> None:
    with pytest.raises(TypeError, match="not str"):
        make().bootstrap("fisher", task_batches(0, 1))  # type: ignore[arg-type]
    make().bootstrap(si.Uniform)  # type: ignore[arg-type]


@case("`bootstrap` that finds nothing important at all", si.SynapseError)
def _(folder: Path) -> None:
    model = nn.Linear(4, 3, bias=False)
    synapses = make(model=model)
    with pytest.raises(si.SynapseError, match="not round to zero"):
        synapses.bootstrap(si.Uniform(), weight=1e-50)
    synapses.detach()
    bootstrapped(si.MAS(model), [(torch.zeros(8, 4), torch.zeros(8))], model)


@case("`bootstrap` that finds nothing important in some parameters", si.SynapseWarning)
def _(folder: Path) -> None:
    model = nn.Linear(4, 3)
    make(model=model).bootstrap(si.MAS(model), [(torch.zeros(8, 4), torch.zeros(8))])  # the bias alone counts


@case("a loss to `observe` that has not one element", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.observe(torch.ones(2)))


@case("a loss to `observe` that is no number", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(lambda: bench.synapses.observe("low"))  # type: ignore[arg-type]


@case("surgery without the parameters of now", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.synapses.consolidate()
    bench.fails(lambda: bench.synapses.attach(bench.optimizer, surgery=si.Surgery(replaced=["0"])))


@case("surgery for synapses that are made anew", TypeError)
def _(folder: Path) -> None:
    si.optim.SGD(small_model().named_parameters(), c=0.5, xi=0.1, surgery=si.Surgery(added=["0"]))


@case("surgery that is none", TypeError)
def _(folder: Path) -> None:
    bench = Bench()
    bench.fails(
        lambda: bench.synapses.attach(bench.optimizer, bench.model.named_parameters(), surgery="head")  # type: ignore[arg-type]
    )


@case("surgery on a state that is none", si.SynapseError)
def _(folder: Path) -> None:
    si.Surgery().state(None, small_model().named_parameters())  # type: ignore[arg-type]


@case("a strength is asked of a loss that did not fall", ValueError)
def _(folder: Path) -> None:
    bench = Bench()
    si.suggest_c(bench.synapses, loss_before=1.0, loss_after=2.0)


@case("a strength is asked without a task that ended here", si.SynapseError)
def _(folder: Path) -> None:
    si.suggest_c(make(), loss_before=2.0, loss_after=1.0)


@case("a strength is asked of what has none", TypeError)
def _(folder: Path) -> None:
    model = small_model()
    optimizer = si.optim.SGD(model.named_parameters(), lr=0.1, c=0.1, xi=0.1)
    with pytest.raises(TypeError, match=r"optimizer\.synapses"):
        si.suggest_c(optimizer, loss_before=2.0, loss_after=1.0)  # type: ignore[arg-type]
    si.suggest_c(stacked_synapses(torch.optim.SGD, 2, 3), loss_before=2.0, loss_after=1.0)


@case("a strength is asked after a merged file was loaded", si.SynapseError)
def _(folder: Path) -> None:
    merge(folder, merged_c=0.5)
    bench = Bench()
    bench.synapses.load(folder / "two")  # which merge has written over
    with pytest.raises(si.SynapseError, match="merged file"):
        si.suggest_c(bench.synapses, loss_before=2.0, loss_after=1.0)
    si.suggest_c(bench.synapses, loss_before=2.0, loss_after=1.0)


@case("a strength is asked where parameter groups have their own", si.SynapseError)
def _(folder: Path) -> None:
    model = small_model()
    groups = [{"params": [p], "c": 0.5} for p in model.parameters()]
    si.suggest_c(make(model=model, optimizer=torch.optim.SGD(groups, lr=0.1)), loss_before=2.0, loss_after=1.0)


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
