"""What the ranks do in test_estimators.py: each estimates importance from data of its own, in a wrapped model."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from oracle import small_model
from stacks.jobs import Wrap, full, samples, wrapped
from torch import nn

import synaptic_intelligence as si

Name = Literal["mas", "short_path", "uniform"]


def estimator(name: Name, model: nn.Module) -> si.Importance:
    if name == "mas":
        return si.MAS(model, chunk_size=4)
    return si.ShortPath(model, F.cross_entropy, lr=0.2, xi=0.05) if name == "short_path" else si.Uniform(0.5)


def omega_of(rank: int, wrap: Wrap, name: Name) -> Any:
    """Return what the estimator finds, whole, and whether weights, gradients and modes are as they were.

    A process that is alone has the data of both ranks, in the order in which they take turns.
    """
    bare = small_model(torch.float64)
    model = wrapped(bare, wrap)
    importance = estimator(name, model)
    synapses = si.Consolidator(model.named_parameters(), torch.optim.Adam(model.parameters()), importance, c=1.0)
    before = [full(p.detach()).clone() for p in bare.parameters()]
    first, *rest = samples(0)
    data = samples(rank) if dist.is_initialized() else [first, *samples(1), *rest]
    synapses.bootstrap(importance, data if importance.needs_data else None)
    same = model.training and all(p.grad is None for p in bare.parameters())
    same = same and all(map(torch.equal, before, [full(p.detach()) for p in bare.parameters()]))
    return {name: full(omega).clone() for name, omega in synapses.omega.items()}, same


def message_of(rank: int, wrap: Wrap, name: Name) -> str:
    """Return what is raised on this rank."""
    try:
        omega_of(rank, wrap, name)
    except si.SynapseError as error:
        return str(error)
    return "nothing was raised"
