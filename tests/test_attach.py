"""Synapses that move to another optimizer of the same model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import same
from torch import Tensor, nn

import synaptic_intelligence as si


class TwoHeads(nn.Module):
    """A body, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 5)
        self.heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(2))

    def forward(self, x: Tensor, task: int) -> Tensor:
        logits: Tensor = self.heads[task](torch.tanh(self.body(x)))
        return logits


def optimizer_of(model: TwoHeads, *heads: int) -> torch.optim.Optimizer:
    """Of the body and some heads, which have no synapses."""
    groups: list[dict[str, Any]] = [{"params": [*model.body.parameters()]}]
    return torch.optim.SGD([*groups, *({"params": [*model.heads[i].parameters()], "c": None} for i in heads)], lr=0.1)


def learn(model: TwoHeads, optimizer: torch.optim.Optimizer, task: int) -> None:
    draw = torch.Generator().manual_seed(task)
    for _ in range(5):
        x = torch.randn(8, 4, generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(model(x, task), (x[:, task] > 0).long()).backward()
        optimizer.step()


def run(*, kept: bool, named: bool) -> tuple[TwoHeads, si.Consolidator]:
    """Two tasks, the second with an optimizer that may hold the first head no more."""
    model = TwoHeads()
    optimizer = optimizer_of(model, 0, 1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=0.1)
    learn(model, optimizer, 0)
    synapses.consolidate()
    optimizer = optimizer_of(model, 0, 1) if kept else optimizer_of(model, 1)
    synapses.attach(optimizer, model.body.named_parameters(prefix="body") if named else None)
    learn(model, optimizer, 1)
    synapses.consolidate()
    return model, synapses


@pytest.mark.parametrize("named", [False, True])
def test_a_head_that_never_had_synapses_may_be_left_out_of_the_next_optimizer(named: bool) -> None:
    """Alive or not, and nothing else changes: the head gets no gradient in the second task."""
    (model, synapses), (other, expected) = run(kept=False, named=named), run(kept=True, named=False)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(dict(synapses.omega), dict(expected.omega))
    synapses.attach(optimizer_of(model, 1, 0))  # and come back


def test_what_has_synapses_must_be_there_and_what_has_none_must_not_get_them() -> None:
    model, synapses = run(kept=False, named=False)
    before = copy.deepcopy(synapses.state_dict())
    only_heads = torch.optim.SGD([{"params": [*model.heads.parameters()], "c": None}], lr=0.1)
    for optimizer in (only_heads, torch.optim.SGD([model.body.weight], lr=0.1)):
        with pytest.raises(ValueError, match=r"'body.(weight|bias)' is not in the optimizer"):
            synapses.attach(optimizer)
    with pytest.raises(ValueError, match=r"'heads.0.weight' is not in the optimizer"):  # it was named
        synapses.attach(optimizer_of(model, 1), model.named_parameters())
    with pytest.raises(si.SynapseError, match=r"\['heads.0.bias', 'heads.0.weight'\]"):
        synapses.attach(torch.optim.SGD([*model.body.parameters(), *model.heads[0].parameters()], lr=0.1))
    assert same(synapses.state_dict(), before)
