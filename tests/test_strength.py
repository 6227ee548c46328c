"""A strength for each replicate: the same as separate synapses, each with its own strength."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_close, same
from torch import Tensor, nn, optim

import synaptic_intelligence as si
from synaptic_intelligence import native

STRENGTHS = (0.0, 0.1, 1.0)
R, XI = len(STRENGTHS), 0.05
C = torch.tensor(STRENGTHS, dtype=torch.float64)
SHAPES = {"matrix": (4, 5), "vector": (7,), "number": ()}

Make = Callable[[list[Tensor]], optim.Optimizer]

ELEMENTWISE = [
    pytest.param(make, id=name)
    for name, make in {
        "SGD": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
        "SGD-maximize": partial(optim.SGD, lr=0.05, maximize=True),
        "Adam": partial(optim.Adam, lr=0.05),  # fused it rounds the last numbers of a tensor otherwise than the first
        "AdamW": partial(optim.AdamW, lr=0.05, amsgrad=True),
        "NAdam": partial(optim.NAdam, lr=0.05),
        "RAdam": partial(optim.RAdam, lr=0.05),
        "RMSprop": partial(optim.RMSprop, lr=0.05, centered=True),
        "Adagrad": partial(optim.Adagrad, lr=0.05),
        "Adadelta": partial(optim.Adadelta, lr=1.0),
        "Adamax": partial(optim.Adamax, lr=0.05),
        "ASGD": partial(optim.ASGD, lr=0.05),
        "Rprop": partial(optim.Rprop, lr=0.05),
    }.items()
]


def stacked(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    """Parameters of R replicates along the first axis."""
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(R, *s, generator=generator, dtype=dtype)) for name, s in SHAPES.items()}


def separate(parameters: dict[str, nn.Parameter], replicate: int) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(p.detach()[replicate].clone()) for name, p in parameters.items()}


def train(
    parameters: dict[str, nn.Parameter], optimizer: optim.Optimizer, task: int, replicate: slice | int = slice(None)
) -> None:
    """Ten steps whose gradients are those of each number alone, so that they are the same bits in a stack."""
    generator = torch.Generator().manual_seed(task)
    for _ in range(10):
        for name, p in parameters.items():
            target, curvature = (torch.rand(R, *SHAPES[name], generator=generator, dtype=torch.float64) for _ in "ab")
            p.grad = (curvature[replicate] * (p.detach() - 3 * target[replicate])).to(p.dtype)
        optimizer.step()


@pytest.fixture(params=["kernel", "foreach"])
def _both_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "foreach":
        monkeypatch.setattr(native, "kernel", lambda dtype: "this test has no kernel")


@pytest.mark.usefixtures("_both_forms")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("make", ELEMENTWISE)
def test_a_stack_is_its_replicates_bit_for_bit(make: Make, dtype: torch.dtype) -> None:
    """Over two tasks and a half, with a fresh optimizer for the second."""
    together = stacked(dtype)
    alone = [separate(together, r) for r in range(R)]
    runs: list[tuple[dict[str, nn.Parameter], slice | int, float | Tensor]] = [(together, slice(None), C)]
    runs += [(alone[r], r, c) for r, c in enumerate(STRENGTHS)]
    synapses: list[si.Consolidator] = []
    for parameters, replicate, c in runs:
        optimizer = make(list(parameters.values()))
        each = si.SynapticIntelligence(parameters.items(), optimizer, c=c, xi=XI)
        for task in range(3):
            if task == 1:
                optimizer = make(list(parameters.values()))
                each.attach(optimizer)
            train(parameters, optimizer, task, replicate)
            if task < 2:
                each.consolidate()
        synapses.append(each)
    for r in range(R):
        for name in SHAPES:
            assert torch.equal(together[name][r], alone[r][name])
            for kind in ("omega", "anchor", "path"):
                assert torch.equal(getattr(synapses[0], kind)[name][r], getattr(synapses[1 + r], kind)[name])
    assert not torch.equal(together["matrix"][0], together["matrix"][2])
    total = sum(float(each.penalty()) for each in synapses[1:])
    assert float(synapses[0].penalty()) == pytest.approx(total, rel=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.usefixtures("_both_forms")
def test_a_group_may_have_a_strength_for_each_replicate() -> None:
    together, twin = stacked(), stacked()
    for parameters, c, group in ((together, 0.7, C), (twin, C, 0.7)):
        own: dict[str, Any] = {"params": [parameters["matrix"]], "c": group}
        others: dict[str, Any] = {"params": [parameters["vector"], parameters["number"]]}
        optimizer = optim.SGD([own, others], lr=0.05)
        synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=c, xi=XI)
        train(parameters, optimizer, 0)
        synapses.consolidate()
        train(parameters, optimizer, 1)
    uniform, each = stacked(), stacked()
    for parameters, c in ((uniform, 0.7), (each, C)):
        optimizer = optim.SGD(parameters.values(), lr=0.05)
        synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=c, xi=XI)
        train(parameters, optimizer, 0)
        synapses.consolidate()
        train(parameters, optimizer, 1)
    assert_close([("matrix", together["matrix"])], {"matrix": each["matrix"]}, 0.0)
    assert_close([("vector", together["vector"])], {"vector": uniform["vector"]}, 0.0)
    assert_close([("matrix", twin["matrix"])], {"matrix": uniform["matrix"]}, 0.0)
    assert_close([("number", twin["number"])], {"number": each["number"]}, 0.0)


def test_strengths_may_change_and_come_back_as_they_were_given() -> None:
    parameters = stacked()
    synapses = si.SynapticIntelligence(parameters.items(), optim.SGD(parameters.values(), lr=0.05), c=0.5, xi=XI)
    assert synapses.c == 0.5
    synapses.c = C.float()
    assert isinstance(synapses.c, Tensor)
    assert torch.equal(synapses.c, C.float().double())
    synapses.c = 2
    assert synapses.c == 2.0


# What is refused.


def test_a_parameter_without_the_axis_is_refused_by_name() -> None:
    for extra in (torch.ones(4, 3), torch.ones(())):
        parameters = {**stacked(), "other": nn.Parameter(extra)}
        optimizer = optim.SGD(parameters.values(), lr=0.05)
        with pytest.raises(ValueError, match=r"c has 3 strengths, so parameter 'other' needs a leading axis of 3"):
            si.SynapticIntelligence(parameters.items(), optimizer, c=C, xi=XI)
        synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=0.1, xi=XI)  # nothing was claimed
        with pytest.raises(ValueError, match="'other'"):
            synapses.c = C
        assert synapses.c == 0.1
        groups: list[dict[str, Any]] = [{"params": list(stacked().values())}, {"params": [parameters["other"]], "c": C}]
        with pytest.raises(ValueError, match="'other'"):
            si.SynapticIntelligence([("other", parameters["other"])], optim.SGD(groups), c=0.1, xi=XI)


@pytest.mark.parametrize(
    ("c", "error"),
    [
        (torch.tensor([0.1, -0.1, 0.1]), ValueError),
        (torch.tensor([0.1, torch.inf, 0.1]), ValueError),
        (torch.tensor([0.1, torch.nan, 0.1]), ValueError),
        (torch.tensor([1, 1, 1]), TypeError),
        (torch.tensor([True, True, True]), TypeError),
        (torch.tensor([1j, 1j, 1j]), TypeError),
        (torch.tensor(0.1), ValueError),
        (torch.ones(3, 1), ValueError),
        (torch.ones(0), ValueError),
        (torch.ones(2), ValueError),
        (torch.ones(3, device="meta"), ValueError),
        ([0.1, 0.1, 0.1], TypeError),
    ],
    ids=str,
)
def test_what_is_no_strength_is_refused(c: Any, error: type[Exception]) -> None:
    parameters = stacked()
    optimizer = optim.SGD(parameters.values(), lr=0.05)
    with pytest.raises(error, match=r"^c "):
        si.SynapticIntelligence(parameters.items(), optimizer, c=c, xi=XI)
    synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=0.1, xi=XI)
    train(parameters, optimizer, 0)
    before = parameters["matrix"].detach().clone()
    optimizer.param_groups[0]["c"] = c  # found out at the next step, before anything moves
    with pytest.raises(error, match=r"^c (of a parameter group|has 2)"):
        train(parameters, optimizer, 0)
    assert torch.equal(parameters["matrix"], before)
    assert synapses.c == 0.1


class _MixesReplicates(optim.SGD):
    pass


@pytest.mark.parametrize(
    "make",
    [partial(optim.Adafactor, lr=0.1), partial(_MixesReplicates, lr=0.1)],
    ids=["Adafactor", "derived"],
)
def test_an_optimizer_that_may_mix_replicates_is_refused(make: Make) -> None:
    parameters = {name: p for name, p in stacked().items() if name != "number"}
    elementwise, other = optim.SGD(parameters.values(), lr=0.05), make(list(parameters.values()))
    with pytest.raises(TypeError, match="needs an optimizer that never mixes them"):
        si.SynapticIntelligence(parameters.items(), other, c=C, xi=XI)
    synapses = si.SynapticIntelligence(parameters.items(), elementwise, c=C, xi=XI)
    with pytest.raises(TypeError, match="needs an optimizer that never mixes them"):
        synapses.attach(other)
    elementwise.step()  # still where they were
    synapses.c = 0.1
    synapses.attach(other)
    with pytest.raises(TypeError, match="needs an optimizer that never mixes them"):
        synapses.c = C


def test_optimizers_with_synapses_inside_take_a_number_alone() -> None:
    parameters = stacked()
    with pytest.raises(TypeError, match="c must be a number"):
        si.optim.Adam(parameters.items(), c=C, xi=XI)  # type: ignore[arg-type]
    optimizer = si.optim.Adam(parameters.items(), c=0.1, xi=XI)
    with pytest.raises(TypeError, match="needs an optimizer that never mixes them"):
        optimizer.synapses.c = C
    assert optimizer.synapses.c == optimizer.param_groups[0]["c"] == 0.1


# Saving and loading.


def trained(c: float | Tensor) -> tuple[dict[str, nn.Parameter], optim.Optimizer, si.Consolidator]:
    parameters = stacked()
    optimizer = optim.SGD(parameters.values(), lr=0.05)
    synapses = si.SynapticIntelligence(parameters.items(), optimizer, c=c, xi=XI)
    train(parameters, optimizer, 0)
    synapses.consolidate()
    train(parameters, optimizer, 1)
    return parameters, optimizer, synapses


@pytest.mark.parametrize("way", ["state", "state-file", "importance-file"])
def test_strengths_are_saved_and_loaded(tmp_path: Path, way: str) -> None:
    parameters, optimizer, synapses = trained(C)
    fresh = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    other_optimizer = optim.SGD(fresh.values(), lr=0.05)
    other = si.SynapticIntelligence(fresh.items(), other_optimizer, c=C, xi=XI)
    if way == "importance-file":
        synapses.save(tmp_path / "a.safetensors")
        other.load(tmp_path / "a.safetensors")
    elif way == "state-file":
        torch.save(synapses.state_dict(), tmp_path / "a.pt")
        other.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    else:
        other.load_state_dict(synapses.state_dict())
    assert same(other.state_dict(), synapses.state_dict())
    train(parameters, optimizer, 2)
    train(fresh, other_optimizer, 2)
    assert same(dict(fresh), dict(parameters))


def test_loading_other_strengths_warns_and_takes_them() -> None:
    state = trained(C)[2].state_dict()
    for c in (0.1, C.flip(0)):
        synapses = trained(c)[2]
        with pytest.warns(match=r"c is \(0\.0, 0\.1, 1\.0\) in state and was"):
            synapses.load_state_dict(state)
        assert same(synapses.c, C)
    with pytest.warns(match=r"c is 0\.1 in state and was \(0\.0, 0\.1, 1\.0\)"):
        synapses.load_state_dict(trained(0.1)[2].state_dict())
    assert synapses.c == 0.1


def test_strengths_that_do_not_fit_are_not_loaded() -> None:
    synapses = trained(0.1)[2]
    state = synapses.state_dict()
    with pytest.raises(ValueError, match="needs a leading axis of 2 replicates"):
        synapses.load_state_dict({**state, "c": torch.ones(2)})
    for c in (torch.ones(3, 1), -torch.ones(3), torch.ones(0)):
        with pytest.raises(si.SynapseError, match="the state has c="):
            synapses.load_state_dict({**state, "c": c})
    assert same(synapses.state_dict(), state)
