"""What estimators that need data share: its batches, the ranks that hold them, and a model that is left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.sharding import is_sharded


def batches(data: object) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of (inputs, targets).

    Raises:
        TypeError: the data is something else.

    Example:
        >>> [len(inputs) for inputs, targets in batches([(torch.ones(3, 2), torch.ones(3))])]
        [3]
    """
    message = "data must be an iterable of (inputs, targets) batches of equal length, such as a DataLoader or [(x, y)]"
    if isinstance(data, Tensor) or (isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data)):
        raise TypeError(f"{message}; wrap a single batch in a list")
    if not isinstance(data, Iterable):
        raise TypeError(f"{message}, not {type(data).__name__}")
    for batch in data:
        match batch:
            case (Tensor() as inputs, Tensor() as targets) if len(inputs) == len(targets):
                yield inputs, targets
            case _:
                raise TypeError(f"{message}; got a batch of type {type(batch).__name__}")


def group_of(model: nn.Module) -> Any:
    """Return the process group over which a model is trained, None where it is trained in one process.

    The data of all its processes, taken together, is that of the task. A model that is not wrapped is warned of where
    there are several processes, as each would then estimate from its own data.

    Raises:
        SynapseError: the model is sharded over a part of the processes alone.

    Example:
        >>> group_of(nn.Linear(2, 1)) is None
        True
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.process_group
    sharded: list[Any] = [p for p in model.parameters() if is_sharded(p)]
    if sharded:
        mesh = sharded[0].device_mesh
        if mesh.size() != dist.get_world_size():
            raise SynapseError(
                f"the model is sharded over {mesh.size()} of {dist.get_world_size()} processes: estimators that need "
                "data then cannot know whose data belongs together; use the path integral"
            )
        return dist.group.WORLD
    if dist.get_world_size() > 1:
        warn(
            f"this is one of {dist.get_world_size()} processes, and the model is neither in DDP nor sharded: the data "
            "of this process alone counts; give the estimator the wrapped model"
        )
    return None


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and ``torch.compile``, which has the same parameters.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> bare(model) is model
        True
    """
    while isinstance(model, nn.parallel.DistributedDataParallel | torch._dynamo.OptimizedModule):
        model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model._orig_mod
    return model


def in_turn(own: Iterator[tuple[Tensor, Tensor]], group: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of all processes of a group, each of them in all of these.

    Every process must take them all, also one whose own are fewer.

    Example:
        >>> list(in_turn(iter([(torch.ones(1), torch.zeros(1))]), None))
        [(tensor([1.]), tensor([0.]))]
    """
    if group is None:
        yield from own
        return
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    while True:
        mine = next(own, None)
        described: list[Any] = [None] * ranks
        kinds = None if mine is None else [(tensor.shape, tensor.dtype, tensor.device.type) for tensor in mine]
        dist.all_gather_object(described, kinds, group=group)
        if not any(described):
            return
        for source, kinds in enumerate(described):
            if kinds is None:
                continue
            if source == rank and mine is not None:
                inputs, targets = (tensor.contiguous() for tensor in mine)
            else:
                inputs, targets = (torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in kinds)
            for tensor in (inputs, targets):
                dist.broadcast(tensor, dist.get_global_rank(group, source), group=group)
            yield inputs, targets


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode; leave its training flags, buffers and gradients, and random state, as they were.

    Example:
        >>> model = nn.Dropout()
        >>> with undisturbed(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    training = [module for module in model.modules() if module.training]
    buffers = [
        (module, name, buffer, buffer.clone(), buffer._version)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            yield
        finally:
            for module in training:
                module.training = True
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, name, buffer, before, version in buffers:
                setattr(module, name, buffer)  # a model may change its buffers in eval mode too, or replace them
                if buffer._version != version:
                    buffer.copy_(before)
