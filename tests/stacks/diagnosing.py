"""What the ranks do in test_diagnosis.py: each diagnoses the model that they train together."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from oracle import small_model
from stacks.jobs import Wrap, part, wrapped
from stacks.plain import XI, C, batches
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

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


Mesh = Literal["bare", "ddp", "fsdp2", "copies", "two meshes"]


def coarse_layers(mesh: Mesh) -> tuple[nn.Module, torch.optim.Optimizer, si.Consolidator]:
    """Return two layers in bfloat16; of the second, one row, the first rank of two holds all."""
    layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(4, 1, bias=False)).to(torch.bfloat16)
    for p in layers.parameters():
        nn.init.ones_(p)
    if mesh == "copies" or mesh == "two meshes":  # of two processes, each holds all; of the second layer at least
        copies = init_device_mesh("cpu", (2, 1), mesh_dim_names=("copy", "shard"))
        for layer, of_layer in zip(layers, (copies if mesh == "copies" else None, copies), strict=True):
            fully_shard(layer, mesh=of_layer)
        model: nn.Module = layers
    else:
        model = wrapped(layers, mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, foreach=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "parameters are torch.bfloat16", si.SynapseWarning)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=0.1)
    return model, optimizer, synapses


def step_coarse_layers(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Move one number in 64 + 4 that the first rank holds, and 24 of the second's; the others round to where they are.

    Steps move by 1/64 and 1/32, which bfloat16 has near 1.
    """
    first = torch.full((8, 8), 1e-6)
    first[0, 0] = 1 / 64
    first[5:] = 1 / 32
    for number in range(steps):
        for p, gradient in zip(model.parameters(), (first, torch.full((1, 4), 1e-6)), strict=True):
            signed: Tensor = (gradient * (-1) ** number).to(torch.bfloat16)
            placed: Any = p
            shared = isinstance(p, DTensor)
            p.grad = distribute_tensor(signed, placed.device_mesh, placed.placements) if shared else signed
        optimizer.step()


def still_share_of(rank: int, mesh: Mesh) -> tuple[float | None, list[str]]:
    """Return the share of numbers that steps leave where they were, and the warnings at the end of the task."""
    model, optimizer, synapses = coarse_layers(mesh)
    step_coarse_layers(model, optimizer, 128)
    share = synapses.diagnose().still_share
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        synapses.consolidate()
    return share, [str(warning.message) for warning in caught]


def warned_on_one_rank(rank: int) -> tuple[str, int, int]:
    """Return what is raised where the first rank alone makes warnings errors, and the tasks then, and after a retry."""
    model, optimizer, synapses = coarse_layers("fsdp2")
    step_coarse_layers(model, optimizer, 128)
    raised = "nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if rank else "error")
        try:
            synapses.consolidate()
        except si.SynapseWarning as warning:
            raised = str(warning)
    tasks = synapses.tasks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        synapses.consolidate()
    dist.barrier()
    return raised, tasks, synapses.tasks


def divergence_in_a_step(rank: int, mesh: Mesh) -> str:
    """Return the warning of a step in a task whose rate was raised since; the second rank holds what is stiffest."""
    model, optimizer, synapses = coarse_layers(mesh)
    step_coarse_layers(model, optimizer, 1)
    synapses.consolidate()
    synapses.c, optimizer.param_groups[0]["lr"] = 1.0, 1e4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step_coarse_layers(model, optimizer, 128)
    (message,) = (str(warning.message) for warning in caught if "SGD" in str(warning.message))
    return message
