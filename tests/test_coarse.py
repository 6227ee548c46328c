"""Omega in bfloat16: the same synapses, whose omega is rounded when a task ends and nowhere else."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, assert_close, loss_of, same, small_model, task_batches
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from twins import XI, C, Twins, count_rules, inside, needs_kernel, no_kernel, train

import synaptic_intelligence as si

COARSE = torch.bfloat16
ROW: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "maximize": True}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
]
each_optimizer = pytest.mark.parametrize(("name", "options"), ROW)
each_form = pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernel), False])


class Rounding(NaiveSynapses):
    """The oracle, with an omega that loses its last digits at the end of each task."""

    def consolidate(self) -> None:
        super().consolidate()
        self.omega = {name: omega.to(COARSE).double() for name, omega in self.omega.items()}


@each_form
@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_equals_an_oracle_that_rounds(form: str, kernel: bool) -> None:
    def run() -> None:
        twin, model = small_model(), small_model()
        twin_optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        naive = Rounding(twin, C, XI)
        if form == "inside":
            optimizer: Any = si.optim.Adam(model.named_parameters(), lr=0.01, c=C, xi=XI, omega_dtype=COARSE)
            synapses = optimizer.synapses
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI, omega_dtype=COARSE)
        for task in range(3):
            for x, y in task_batches(task, 12):
                naive.step(twin_optimizer, loss_of(twin, x, y))
            train(model, optimizer, task, 12)
            naive.consolidate()
            synapses.consolidate()
        assert_close(model.named_parameters(), dict(twin.named_parameters()), 1e-12)
        assert {omega.dtype for omega in synapses.omega.values()} == {COARSE}
        assert same({n: t.double() for n, t in synapses.omega.items()}, naive.omega)
        assert float(synapses.penalty()) == 0.0

    if kernel:
        run()
    else:
        with no_kernel():
            run()


LAYOUTS: list[Any] = [
    lambda: torch.randn(7, 9).double(),
    lambda: torch.randn(5, 3),
    lambda: torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
    lambda: torch.randn(()),
    lambda: torch.randn(40001),
]


@each_optimizer
@pytest.mark.parametrize("way", [pytest.param("kernel", marks=needs_kernel), "no kernel", "a view beside"])
def test_inside_is_as_around(name: str, options: dict[str, Any], way: str) -> None:
    """A parameter that is a view takes the whole optimizer the long way."""
    layouts = [*LAYOUTS, *([lambda: torch.randn(6, 4).T] if way == "a view beside" else [])]
    with no_kernel() if way == "no kernel" else nullcontext(), count_rules() as called, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the optimizer steps in several passes")
        twins = Twins(name, layouts, omega_dtype=COARSE, **options)
        twins.run()
    assert ("sgd_step" if name == "SGD" else "adam_step") in called or way != "kernel"
    (hooked, ours), (theirs, own) = twins.named, twins.synapses
    assert_close(ours.items(), dict(hooked), 1e-5)
    assert_close(own.path.items(), dict(theirs.path), 1e-4)
    # A last digit of omega may be rounded the other way.
    assert {omega.dtype for omega in own.omega.values()} == {omega.dtype for omega in theirs.omega.values()} == {COARSE}
    assert_close([(n, t.float()) for n, t in own.omega.items()], {n: t.float() for n, t in theirs.omega.items()}, 2**-7)
    exact = next(iter(ours))
    assert_close([(exact, ours[exact])], {exact: hooked[exact]}, 1e-12)


@pytest.mark.filterwarnings("ignore::synaptic_intelligence.SynapseWarning")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_of_any_dtype_may_have_it(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = torch.optim.SGD([p], lr=0.5)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=1.0, omega_dtype=COARSE)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        optimizer.step()
        synapses.consolidate()
    assert synapses.omega["w"].dtype == COARSE
    # A movement of 0.5 against a gradient of 1, twice: 0.5 / (0.25 + 1) each time. The second has no pull yet.
    assert synapses.omega["w"].tolist() == torch.full((3,), 0.8).bfloat16().tolist()


def test_it_takes_two_bytes_a_number() -> None:
    model = nn.Linear(30, 20)
    optimizer = inside("Adam", model.named_parameters(), omega_dtype=COARSE)
    train(model, optimizer, 0, 0)
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    assert optimizer.synapses.memory().omega == 0
    optimizer.consolidate()
    memory = optimizer.synapses.memory()
    assert (memory.path, memory.anchor, memory.omega, memory.scratch) == (2480, 2480, 1240, 0)
    assert str(memory).startswith("10.0 bytes per parameter: path 4.0, anchor 4.0, omega 2.0")


@pytest.mark.parametrize("chunk_size", [1, 512])
def test_fisher_is_summed_wide_and_rounded_once(chunk_size: int) -> None:
    """Hundreds of samples: a sum in bfloat16 would stop growing at some of them."""
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(800, 6, generator=generator), torch.randint(3, (800,), generator=generator))]
    found = []
    for dtype in (COARSE, None):
        model = nn.Linear(6, 3)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fisher = si.Fisher(model, F.cross_entropy, kind="empirical", chunk_size=chunk_size)
        synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0, omega_dtype=dtype)
        synapses.consolidate(data)
        found.append(dict(synapses.omega))
    narrow, wide = found
    assert same(narrow, {name: omega.to(COARSE) for name, omega in wide.items()})


def test_what_is_finite_stays_finite() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=1.0, omega_dtype=COARSE)
    p.grad = torch.ones(2)
    optimizer.step()
    synapses.consolidate()
    state = synapses.state_dict()
    largest = torch.finfo(torch.float32).max
    synapses.load_state_dict({**state, "omega": {"w": torch.tensor([largest, 0.5])}})
    assert synapses.omega["w"].tolist() == [torch.finfo(COARSE).max, 0.5]
    synapses.load_state_dict(synapses.state_dict())


def test_a_task_that_adds_less_than_half_a_digit_adds_nothing() -> None:
    """The limit that the documentation tells of."""
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.0, xi=1.0, omega_dtype=COARSE)
    for size in (1.0, 1.0 / 25, 1.0 / 15):  # the path of a step goes with the square of its gradient
        p.grad = torch.full((2,), size)
        optimizer.step()
        before = synapses.omega["w"].clone()
        synapses.consolidate()
        assert torch.equal(synapses.omega["w"], before) == (size == 1.0 / 25)


def _half_way(omega_dtype: torch.dtype | None, form: str = "inside") -> tuple[nn.Module, Any, si.Consolidator]:
    """In the midst of the second task."""
    model = small_model(torch.float32)
    if form == "inside":
        optimizer: Any = inside("Adam", model.named_parameters(), lr=0.01, omega_dtype=omega_dtype)
        synapses = optimizer.synapses
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI, omega_dtype=omega_dtype)
    train(model, optimizer, 0, 4)
    synapses.consolidate()
    train(model, optimizer, 1, 2)
    return model, optimizer, synapses


@pytest.mark.parametrize("form", ["hooks", "inside"])
@pytest.mark.parametrize("saved", [COARSE, None])
@pytest.mark.parametrize("into", [COARSE, None])
@pytest.mark.parametrize("way", ["state", "file"])
def test_what_is_saved_is_loaded_in_the_dtype_that_was_asked_for(
    form: str, saved: torch.dtype | None, into: torch.dtype | None, way: str, tmp_path: Path
) -> None:
    _, _, first = _half_way(saved, form)
    _, _, second = _half_way(into, form)
    if way == "state":
        second.load_state_dict(first.state_dict())
    else:
        first.save(tmp_path / "a.safetensors")
        second.load(tmp_path / "a.safetensors")
    expected = {name: omega.to(into or torch.float32) for name, omega in first.omega.items()}
    assert same(dict(second.omega), expected)
    assert same(dict(second.path), dict(first.path))


def test_an_optimizers_state_carries_it_and_torch_does_not_widen_it() -> None:
    model, optimizer, synapses = _half_way(COARSE)
    other = small_model(torch.float32)
    fresh = inside("Adam", other.named_parameters(), lr=0.01, omega_dtype=COARSE)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch's loading copies nothing
    assert same(dict(fresh.synapses.omega), dict(synapses.omega))
    for m, o in ((model, optimizer), (other, fresh)):
        train(m, o, 1, 6, first=2)
        o.consolidate()
    assert same(other.state_dict(), model.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_fresh_process_gets_it_bit_equal_from_a_distributed_checkpoint(tmp_path: Path) -> None:
    model, optimizer, synapses = _half_way(COARSE)
    save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    other = small_model(torch.float32)
    fresh = inside("Adam", other.named_parameters(), lr=0.01, omega_dtype=COARSE)
    state = {"optimizer": get_optimizer_state_dict(other, fresh)}
    load(state, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, fresh, state["optimizer"])
    assert same(dict(fresh.synapses.omega), dict(synapses.omega))
    assert any(bool(omega.any()) for omega in synapses.omega.values())


def test_a_state_dict_offers_zeros_of_its_dtype_in_the_first_task() -> None:
    model = small_model(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=1.0, omega_dtype=COARSE)
    assert {omega.dtype for omega in synapses.state_dict()["omega"].values()} == {COARSE}


def test_replicates_may_have_it() -> None:
    p = nn.Parameter(torch.ones(2, 5))
    c = torch.tensor([0.0, 1.0])
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=c, xi=1.0, omega_dtype=COARSE)
    p.grad = torch.ones_like(p)
    optimizer.step()
    synapses.consolidate()
    optimizer.step()  # at the anchor nothing pulls yet
    omega, before = float(synapses.omega["w"][1, 0]), p.detach().clone()
    assert omega > 0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(p[0], before[0])
    # From 0.1 beside the anchor: lr * 2 c omega * 0.1.
    assert torch.allclose(p[1], before[1] + 0.1 * 2 * omega * 0.1)


def test_another_dtype_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"omega_dtype must be torch.bfloat16, or None .* not torch.float16"):
        si.SynapticIntelligence([("w", p)], torch.optim.SGD([p]), c=1.0, xi=1.0, omega_dtype=torch.float16)
