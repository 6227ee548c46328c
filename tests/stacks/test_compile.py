"""Compiled models, compiled optimizer steps, and compiled training steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_difference, same, small_model
from stacks.example import first_task_accuracies, run_example
from stacks.forms import NAMES, each_form, made, plain_step, train
from stacks.plain import RATE, STEPS, TASKS, Outcome, assert_same, batches, outcome_of, synapses_of
from torch import Tensor, nn
from torch._dynamo.utils import counters

import synaptic_intelligence as si

pytestmark = [
    pytest.mark.stack("torch.compile"),
    # The compiler imports a part of torch that uses another deprecated one.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]

HAS_COMPILER = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)  # in which Adam then counts its steps, too
    yield
    torch.set_default_dtype(torch.float32)


def graphs() -> int:
    """How many graphs were compiled."""
    return int(counters["stats"]["unique_graphs"])


def compiled(function: Any, backend: str = "eager", **options: Any) -> Any:
    return torch.compile(function, backend=backend, **options)


def run(form: str, name: str, what: str, backend: str = "eager", **options: Any) -> Outcome:
    """Train three tasks with what is named in ``what`` compiled: model, step, both or nothing."""
    model = small_model(torch.get_default_dtype())
    fast = compiled(model, backend) if "model" in what else model
    optimizer, synapses = made(form, name, fast, **options)
    step = compiled(optimizer.step, backend) if "step" in what else optimizer.step

    def take(optimizer: torch.optim.Optimizer, _: nn.Module, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(fast(x), y).backward()
        step()

    dtype = torch.get_default_dtype()
    found = train(model, optimizer, synapses, take, of=lambda task: batches(task, dtype))
    assert synapses.state_dict()["steps"] == STEPS
    return found


@pytest.mark.parametrize(("backend", "name"), [*(("eager", name) for name in NAMES), ("aot_eager", "Adam")])
@each_form
def test_a_compiled_model_bit_for_bit(form: str, backend: str, name: str) -> None:
    """`torch.compile(model)`, with the synapses made from the names of the compiled model."""
    assert_same(run(form, name, "model", backend), run(form, name, "nothing"))
    assert graphs() == 1


@pytest.mark.parametrize(
    ("what", "backend"), [("step", "eager"), ("model, step", "eager"), ("model, step", "aot_eager")]
)
@pytest.mark.parametrize(("form", "name"), [("hooks", "SGD"), ("inside", "SGD"), ("inside", "Adam")])
def test_a_compiled_optimizer_step_bit_for_bit(form: str, name: str, what: str, backend: str) -> None:
    """`torch.compile(optimizer.step)`, alone and with a compiled model; a task that ends compiles nothing anew."""
    plain = run(form, name, "nothing")
    assert_same(run(form, name, what, backend), plain)
    # With the synapses inside, the step is compiled code already: the compiler leaves it alone.
    assert graphs() == ("model" in what) + (form == "hooks")


@pytest.mark.parametrize(("what", "name"), [("step", "Adam"), ("model, step", "AdamW")])
@pytest.mark.usefixtures("_float64")
def test_a_compiled_step_of_adam_within_1e_12(what: str, name: str) -> None:
    """In float64; what torch compiles of Adam corrects the moments in another order than its uncompiled step."""
    assert_same(run("hooks", name, what), run("hooks", name, "nothing"), weights=1e-12, importance=1e-12)
    assert graphs() == 1 + ("model" in what)


def test_a_compiled_step_of_adam_in_float32_within_1e_4() -> None:
    """In float32 torch's compiled Adam has float32 corrections: weights within 1e-5, importance within 1e-4."""
    assert_same(run("hooks", "Adam", "step"), run("hooks", "Adam", "nothing"), weights=1e-5, importance=1e-4)


def test_a_compiled_step_of_adam_differs_without_synapses_too() -> None:
    """torch's own two forms of Adam do not agree bit for bit in float32; this is not what the synapses change."""
    found: list[dict[str, Tensor]] = []
    for compiles in (False, True):
        model = small_model(torch.float32)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        step = compiled(optimizer.step) if compiles else optimizer.step
        for x, y in batches(0):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            step()
        found.append({name: p.detach() for name, p in model.named_parameters()})
    plain, fast = found
    assert 0 < max(relative_difference(fast[name], plain[name]) for name in plain) < 1e-5


@pytest.mark.skipif(not HAS_COMPILER, reason="torch's inductor needs a C++ compiler")
@pytest.mark.usefixtures("_float64")
def test_inductor_within_1e_12(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default backend, which compiles the step to machine code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch(compile_threads=1):
        found = run("hooks", "SGD", "step", "inductor")
    assert_same(found, run("hooks", "SGD", "nothing"), weights=1e-12, importance=1e-12)
    assert list(tmp_path.rglob("*.cpp"))


@each_form
@pytest.mark.parametrize("rate", ["a number", "a tensor"])
@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.usefixtures("_float64")
def test_schedulers_and_closures_within_1e_12(with_closure: bool, rate: str, form: str) -> None:
    """A rate that a scheduler changes, as number or tensor, and a closure, through a compiled step."""

    def once(*, compiles: bool) -> Outcome:
        model = small_model()
        lr: Any = RATE if rate == "a number" else torch.tensor(RATE)
        optimizer, synapses = made(form, "SGD", model, lr=lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 6, 0.7)
        step: Any = compiled(optimizer.step) if compiles else optimizer.step

        def take(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss.detach()

            if with_closure:
                assert float(step(closure)) > 0
            else:
                closure()
                step()
            scheduler.step()

        return train(model, optimizer, synapses, take, of=lambda task: batches(task, torch.float64))

    assert_same(once(compiles=True), once(compiles=False), weights=1e-12, importance=1e-12)
    assert graphs() < 6


def test_the_library_itself_is_not_compiled() -> None:
    """The compiler sees torch's step alone, with a closure too: no file of the library is traced."""
    traced: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        traced.extend(str(node.meta.get("stack_trace")) for node in graph.graph.nodes)
        return graph.forward

    model = small_model(torch.float32)
    optimizer, synapses = made("hooks", "SGD", model)
    step: Any = torch.compile(optimizer.step, backend=backend)

    def take(optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss.detach()

        step(closure)

    train(model, optimizer, synapses, take)
    assert any("sgd.py" in stack for stack in traced)
    folder = str(Path(si.__file__).parent)
    assert not [stack for stack in traced if folder in stack]
    assert not [reason for reason in counters["graph_break"] if folder in reason]


@each_form
def test_a_whole_training_step_bit_for_bit(form: str) -> None:
    """One compiled function with forward, backward and `optimizer.step()`; its graph breaks where it must."""

    def once(*, compiles: bool) -> Outcome:
        model = small_model(torch.float32)
        optimizer, synapses = made(form, "SGD", model)
        step: Any = compiled(plain_step) if compiles else plain_step
        return train(model, optimizer, synapses, step)

    assert_same(once(compiles=True), once(compiles=False))
    assert graphs() > 0


@pytest.mark.parametrize(("form", "name"), [("hooks", "SGD"), ("inside", "Adam")])
def test_twenty_optimizers_in_one_process_bit_for_bit(form: str, name: str) -> None:
    """torch stops compiling a function after eight versions of it, with a line in the log; the numbers stay right."""

    def once(seed: int, *, compiles: bool) -> Outcome:
        model = small_model(torch.float32, seed=seed)
        optimizer, synapses = made(form, name, model)
        step = compiled(optimizer.step) if compiles else optimizer.step
        for task in range(TASKS):
            for x, y in batches(task)[:2]:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                step()
            assert synapses.state_dict()["steps"] == 2
            if task + 1 < TASKS:
                synapses.consolidate()
        return outcome_of(model, synapses)

    for seed in range(20):
        assert_same(once(seed, compiles=True), once(seed, compiles=False))


class Halving(torch.optim.SGD):
    """An optimizer whose step calls its parent's, as many of users' own do."""

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in self.param_groups[0]["params"]:
            p.grad.mul_(0.5)
        super().step()
        return loss


def test_a_compiled_step_that_calls_its_parents_bit_for_bit() -> None:
    """The hooks fire for both steps, and count once, as without the compiler."""

    def once(*, compiles: bool) -> Outcome:
        model = small_model(torch.float32)
        optimizer = Halving(model.parameters(), lr=RATE)
        synapses = synapses_of(model, optimizer)
        if compiles:
            vars(optimizer)["step"] = compiled(optimizer.step)  # as `optimizer.step = torch.compile(optimizer.step)`
        found = train(model, optimizer, synapses)
        assert synapses.state_dict()["steps"] == STEPS
        return found

    assert_same(once(compiles=True), once(compiles=False))
    assert graphs() > 0


@each_form
def test_pauses_and_fresh_optimizers_bit_for_bit(form: str) -> None:
    """Paused steps, and synapses that move to a fresh optimizer, whose step is compiled too; the old one raises."""

    def once(*, compiles: bool) -> Outcome:
        model = small_model(torch.float32)
        optimizer, synapses = made(form, "SGD", model)
        step: Any = compiled(optimizer.step) if compiles else optimizer.step

        def take(task: int) -> None:
            for x, y in batches(task):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                step()

        take(0)
        synapses.consolidate()
        with synapses.paused():
            take(1)
        old, optimizer = step, torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        synapses.attach(optimizer)
        with pytest.raises(si.SynapseError, match="detached or moved"):
            old()
        step = compiled(optimizer.step) if compiles else optimizer.step
        take(1)
        synapses.consolidate()
        take(2)
        return outcome_of(model, synapses)

    assert_same(once(compiles=True), once(compiles=False))


@each_form
@pytest.mark.parametrize("first", ["compiled", "bare"])
def test_state_moves_between_a_compiled_and_a_bare_model_bit_for_bit(first: str, form: str, tmp_path: Path) -> None:
    """Saved names are those of the bare model: `state_dict()` and `save()` load either way, in the middle of a task."""

    def begin(kind: str) -> tuple[nn.Module, Any, torch.optim.Optimizer, si.Consolidator]:
        model = small_model(torch.float32)
        fast = compiled(model) if kind == "compiled" else model
        return model, fast, *made(form, "Adam", fast)

    def go_on(fast: nn.Module, optimizer: torch.optim.Optimizer, task: int, part: slice) -> None:
        for x, y in batches(task)[part]:
            plain_step(optimizer, fast, x, y)

    model, fast, optimizer, synapses = begin(first)
    go_on(fast, optimizer, 0, slice(0, STEPS))
    synapses.consolidate()
    go_on(fast, optimizer, 1, slice(0, 5))
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "synapses": synapses.state_dict()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    synapses.save(tmp_path / "importance.safetensors")
    go_on(fast, optimizer, 1, slice(5, STEPS))
    assert list(synapses.omega) == [name for name, _ in small_model().named_parameters()]

    for file in ("state", "importance"):
        loaded = torch.load(tmp_path / "checkpoint.pt")
        other, fast, fresh, again = begin("bare" if first == "compiled" else "compiled")
        other.load_state_dict(loaded["model"])
        fresh.load_state_dict(loaded["optimizer"])
        if file == "state":
            again.load_state_dict(loaded["synapses"])
        else:
            again.load(tmp_path / "importance.safetensors")
        go_on(fast, fresh, 1, slice(5, STEPS))
        assert same(other.state_dict(), model.state_dict())
        for ours, theirs in ((again.path, synapses.path), (again.omega, synapses.omega)):
            assert same(dict(ours), dict(theirs))


@each_form
def test_a_step_without_graph_breaks_is_refused_by_torch(form: str) -> None:
    """`fullgraph=True` cannot hold what stands around a step: torch raises at the first, and nothing has moved."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, "SGD", model)
    x, y = batches(0)[0]
    F.cross_entropy(model(x), y).backward()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(Exception, match=r"Step\.before"):
        compiled(optimizer.step, fullgraph=True)()
    assert same({name: p.detach() for name, p in model.named_parameters()}, weights)
    assert synapses.state_dict()["steps"] == 0


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/compiled.py``."""
    with_synapses, without = first_task_accuracies(run_example("compiled.py", tmp_path))
    assert with_synapses > without + 0.05
