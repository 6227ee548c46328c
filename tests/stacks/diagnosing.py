"""What the ranks do in test_diagnosis.py: each diagnoses the model that they train together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from oracle import small_model
from stacks.jobs import Wrap, part, wrapped
from stacks.plain import XI, C, batches

import synaptic_intelligence as si


def diagnosis_of(rank: int, wrap: Wrap, momentum: float) -> si.Diagnosis:
    """Return what is found in the middle of a second task, with plain SGD and labels of one task after another.

    The last layer's bias has three numbers, and LayerNorm's others: some are smaller than the ranks can share evenly.
    """
    model = wrapped(small_model(torch.float64), wrap)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    for task in range(2):
        for x, y in batches(task, torch.float64)[:5]:
            optimizer.zero_grad()
            F.cross_entropy(model(part(x)), part(y)).backward()
            optimizer.step()
            synapses.observe(1.0, part(y))
        if task == 0:
            synapses.consolidate()
    synapses.c = 300.0  # too strong
    return synapses.diagnose()


def tiny_parameter(rank: int) -> float | None:
    """Return the stability of a parameter of one number, of which one of the ranks holds no part."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    wrapped_model = wrapped(torch.nn.Sequential(model), "fsdp2")
    optimizer = torch.optim.SGD(wrapped_model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(wrapped_model.named_parameters(), optimizer, c=1.0, xi=1.0)
    # The loss is theta, so the path is 0.1 and omega 0.1 / (0.01 + 1).
    wrapped_model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    synapses.consolidate()
    return synapses.diagnose().stability
