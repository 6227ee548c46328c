"""What the ranks do in the tests: the plain loop of plain.py, each rank with its part of every batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from oracle import small_model
from stacks.plain import RATE, STEPS, TASKS, XI, C, Outcome, batches, synapses_of
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import synaptic_intelligence as si

Wrap = Literal["bare", "ddp", "fsdp2"]
Form = Literal["hooks", "inside"]
ALL = STEPS * TASKS


@dataclass(frozen=True)
class Job:
    """The steps from ``first`` to ``last`` of three tasks, by some ranks together.

    Attributes:
        wrap, form: how the model is wrapped, and where the synapses are.
        clip: the norm of all gradients, over all ranks, is clipped at this.
        load, save: folders of distributed checkpoints, from before the first and after the last step.
    """

    wrap: Wrap
    form: Form = "hooks"
    first: int = 0
    last: int = ALL
    clip: float | None = None
    load: Path | None = None
    save: Path | None = None


def wrapped(model: nn.Module, wrap: Wrap) -> nn.Module:
    """Wrap a model as users do: layer by layer and the whole, with FSDP2."""
    if wrap == "ddp":
        return DistributedDataParallel(model)
    if wrap == "fsdp2":
        for layer in model.children():
            fully_shard(layer)
        fully_shard(model)
    return model


def optimizer_and_synapses(model: nn.Module, form: Form) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    if form == "inside":
        inside = si.optim.Adam(model.named_parameters(), lr=RATE, c=C, xi=XI)
        return inside, inside.synapses
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    return optimizer, synapses_of(model, optimizer)


def part(batch: Tensor) -> Tensor:
    """This rank's part of a batch, or all of it in a process that is alone."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else batch


def train(rank: int, job: Job) -> Outcome:
    """Train, and return what came out, whole."""
    bare = small_model(torch.float64)
    model = wrapped(bare, job.wrap)
    optimizer, synapses = optimizer_and_synapses(model, job.form)
    if job.load is not None:
        load(job.load, model, optimizer, None if job.form == "inside" else synapses)
    for number in range(job.first, job.last):
        task, step = divmod(number, STEPS)
        x, y = batches(task, torch.float64)[step]
        optimizer.zero_grad()
        F.cross_entropy(model(part(x)), part(y)).backward()
        if job.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        if step + 1 == STEPS and task + 1 < TASKS:
            synapses.consolidate()
    if job.save is not None:
        save(job.save, model, optimizer, None if job.form == "inside" else synapses)
    return whole_outcome(bare, synapses)


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator | None) -> None:
    """Save model and optimizer, and the synapses if they are not inside."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": of_model, "optimizer": of_optimizer}
    dcp.save({**state, "synapses": synapses} if synapses else state, checkpoint_id=folder)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator | None) -> None:
    """Load what :func:`save` saved, by any number of ranks."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": of_model, "optimizer": of_optimizer}
    dcp.load({**state, "synapses": synapses} if synapses else state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)


def whole_outcome(bare: nn.Module, synapses: si.Consolidator) -> Outcome:
    def whole(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {name: full(tensor.detach()).clone() for name, tensor in named}

    omega, path, anchor = (whole(named.items()) for named in (synapses.omega, synapses.path, synapses.anchor))
    return Outcome(whole(bare.named_parameters()), omega, path, anchor, synapses.tasks)


def full(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
    return found
