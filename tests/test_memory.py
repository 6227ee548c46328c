"""What synapses take in memory: three numbers per parameter, two in the first task, whatever the number of tasks."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

import synaptic_intelligence as si

NUMBERS = 30 * 20 + 20


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(4, 30)).square().sum().backward()
    optimizer.step()


def _alive() -> list[Tensor]:
    gc.collect()
    return [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]


def _held(but: list[Tensor]) -> int:
    """Return the bytes of all tensors that are alive, but for those that other tests have left."""
    left = {id(tensor) for tensor in but}
    return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in _alive() if id(t) not in left}.values())


def test_hooks_keep_three_numbers_and_two_to_write_over() -> None:
    model = nn.Linear(30, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.1, xi=0.1)
    assert synapses.memory() == si.Memory(NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 0, 0)
    _step(model, optimizer)
    assert synapses.memory() == si.Memory(NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 0, 8 * NUMBERS)
    synapses.consolidate()
    _step(model, optimizer)
    assert synapses.memory() == si.Memory(NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 8 * NUMBERS)
    assert synapses.memory().per_parameter == 20.0


def test_inside_there_are_three_numbers_and_nothing_beside() -> None:
    model = nn.Linear(30, 20)
    optimizer = si.optim.SGD(model.named_parameters(), lr=1e-4, c=0.1, xi=0.1)
    _step(model, optimizer)
    assert optimizer.synapses.memory() == si.Memory(NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 0, 0)
    optimizer.consolidate()
    _step(model, optimizer)
    assert optimizer.synapses.memory() == si.Memory(NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 4 * NUMBERS, 0)
    held = sum(t.numel() * t.element_size() for state in optimizer.state.values() for t in state.values())
    assert held == optimizer.synapses.memory().total == 12 * NUMBERS


@pytest.mark.parametrize("inside", [False, True], ids=["hooks", "inside"])
def test_what_is_told_is_what_is_held_and_tasks_do_not_add_to_it(inside: bool) -> None:
    model = nn.Linear(300, 200)
    parameters = list(model.parameters())
    inputs = torch.ones(4, 300)
    before = _alive()
    if inside:
        optimizer: torch.optim.Optimizer = si.optim.SGD(model.named_parameters(), lr=1e-6, c=0.1, xi=0.1)
        synapses = optimizer.synapses  # type: ignore[attr-defined]
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.1, xi=0.1)
    held = []
    for _ in range(4):
        for _ in range(8):  # with one that Movement looks at, so that its counts are there
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
        synapses.consolidate()
        optimizer.zero_grad()
        held.append(_held(but=before))
    told = synapses.memory().total
    assert told == (12 if inside else 20) * sum(p.numel() for p in parameters)
    # Counters and the numbers of hooks take a few bytes.
    assert held[1:] == [held[1]] * 3
    assert 0 <= held[-1] - told < 200


def test_wider_parameters_have_wider_synapses_and_narrower_ones_do_not() -> None:
    for dtype, each in ((torch.float64, 8.0), (torch.float32, 4.0)):
        p = nn.Parameter(torch.ones(10, dtype=dtype))
        synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.1, xi=0.1)
        assert synapses.memory().anchor == 10 * each
    p = nn.Parameter(torch.ones(10, dtype=torch.bfloat16))
    with pytest.warns(si.SynapseWarning, match="bfloat16"):
        synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.1, xi=0.1)
    assert synapses.memory().per_parameter == 8.0
