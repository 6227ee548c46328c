"""What estimators that need data share: its batches, the ranks that hold them, and a model that is left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.sharding import processes_of


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

    The data of all its processes, taken together, is that of the task.

    Raises:
        SynapseError: there are several processes, and the model is neither in DDP nor sharded: each would estimate
            from its own data, and go its own way from then on. Or a sharded one cannot take a backward pass now.

    Example:
        >>> group_of(nn.Linear(2, 1)) is None
        True
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    for wrapper in _wrappers(model):
        if isinstance(wrapper, nn.parallel.DistributedDataParallel):
            return wrapper.process_group
    found = processes_of(model.parameters())
    if found is not None:
        _refuse_other_reductions(model)
    elif dist.get_world_size() > 1:
        raise SynapseError(
            f"this is one of {dist.get_world_size()} processes, and the model is neither in DDP nor sharded, so the "
            "data of this process alone would count: give the estimator the wrapped model (Lightning's "
            "trainer.strategy.model, the Trainer's trainer.model_wrapped)"
        )
    return found


def _refuse_other_reductions(model: nn.Module) -> None:
    """Refuse where FSDP2 would not leave the mean over processes in ``p.grad``, or has gradients there already."""
    for group in _fsdp_groups(model):
        if not group.reduce_grads or any(p.unsharded_accumulated_grad is not None for p in group.fsdp_params):
            raise SynapseError(
                "gradients are being accumulated without synchronisation: call set_requires_gradient_sync(True), and "
                "end that step, before importance is estimated from data"
            )
        if getattr(group, "gradient_divide_factor", None) is not None:
            raise SynapseError(
                "the model has a gradient divide factor of its own (set_gradient_divide_factor), so the size of "
                "gradients is not known: importance cannot be estimated from data; use the path integral"
            )


def _fsdp_groups(model: nn.Module) -> Iterator[Any]:
    """Yield the groups of parameters that FSDP2 gathers and reduces together; torch has no public name for them."""
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", lambda: None)()
        if state is not None:
            several = getattr(state, "_fsdp_param_groups", None)
            yield from several if several is not None else filter(None, [state._fsdp_param_group])


def reshard(model: nn.Module) -> None:
    """Put a model that FSDP2 has left whole after a forward pass back into shards; others stay as they are.

    Example:
        >>> reshard(nn.Linear(2, 1))
    """
    for module in model.modules():
        again = getattr(module, "reshard", None)
        if again is not None and getattr(module, "_get_fsdp_state", None) is not None:
            again()


def _wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model, and what is inside DDP and ``torch.compile``, down to the bare one."""
    yield model
    while isinstance(model, nn.parallel.DistributedDataParallel | torch._dynamo.OptimizedModule):
        model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model._orig_mod
        yield model


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and ``torch.compile``, which has the same parameters.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> bare(model) is model
        True
    """
    *_, inner = _wrappers(model)
    return inner


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
def undisturbed(model: nn.Module, group: Any) -> Iterator[None]:
    """Put the model in eval mode; leave its training flags, buffers and gradients, and random state, as they were.

    Inside, all processes of the group have the buffers of the first, as the running means of BatchNorm differ.

    Example:
        >>> model = nn.Dropout()
        >>> with undisturbed(model, None):
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
            for _, _, buffer, _, _ in buffers if group is not None else []:
                dist.broadcast(buffer, dist.get_global_rank(group, 0), group=group)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, name, buffer, before, version in buffers:
                setattr(module, name, buffer)  # a model may change its buffers in eval mode too, or replace them
                if buffer._version != version or group is not None:  # a broadcast does not count as a version
                    buffer.copy_(before)
