"""Parameters that are sharded over processes (DTensors, as FSDP2 makes them), and the part of them that lies here.

The equations are elementwise, so each process computes them on its own part alone, and a step needs no communication.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor

from synaptic_intelligence.errors import SynapseError

T = TypeVar("T")


def is_sharded(tensor: Tensor | None) -> bool:
    """Return whether a tensor is a DTensor, of which other processes may hold other parts.

    Example:
        >>> import torch
        >>> is_sharded(torch.ones(1))
        False
    """
    # Where nobody has imported it, nothing can be one; to import it takes half a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that lies in this process, as a view: all of it, if it is not sharded.

    Example:
        >>> import torch
        >>> whole = torch.ones(1)
        >>> local(whole) is whole
        True
    """
    part: Any = tensor
    return part.to_local() if is_sharded(tensor) else tensor


def local_rows(rows: Sequence[tuple[Tensor | None, ...]]) -> list[tuple[Tensor | None, ...]]:
    """Return rows of tensors with :func:`local` of each.

    Example:
        >>> import torch
        >>> local_rows([(torch.ones(1), None)])
        [(tensor([1.]), None)]
    """
    return [tuple(None if tensor is None else local(tensor) for tensor in row) for row in rows]


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; where it is sharded, every process of its mesh must call this.

    Example:
        >>> import torch
        >>> whole(torch.ones(1))
        tensor([1.])
    """
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def anywhere(condition: Tensor) -> bool:
    """Return whether a condition holds anywhere; where it is sharded, in any process, and every one must call this.

    ``bool()`` of a DTensor would answer for this process alone.

    Example:
        >>> import torch
        >>> anywhere(torch.tensor([False, True]))
        True
    """
    return bool(whole(condition.any()))


def is_placed_like(tensor: Tensor, parameter: Tensor) -> bool:
    """Return whether each process holds the same part of both.

    Example:
        >>> import torch
        >>> is_placed_like(torch.ones(1), torch.zeros(1))
        True
    """
    if is_sharded(tensor) != is_sharded(parameter):
        return False
    one, other = _spec(tensor), _spec(parameter)
    return one == other


def placed_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor with its parts where the parameter has its own, itself if they lie so.

    From a whole tensor each process takes its own part, without communication: it must be the same in all of them.
    To whole tensors, or from one mesh to another, every process must call this.

    Example:
        >>> import torch
        >>> tensor = torch.ones(1)
        >>> placed_like(tensor, torch.zeros(1)) is tensor
        True
    """
    if is_placed_like(tensor, parameter):
        return tensor
    if not is_sharded(parameter):
        return whole(tensor)
    from torch.distributed.tensor import DTensor, Replicate

    placed: Any = parameter
    mesh = placed.device_mesh
    if is_sharded(tensor) and _spec(tensor)[0] == mesh:
        begun: Any = tensor
    else:
        everywhere = [Replicate() for _ in range(mesh.ndim)]
        begun = DTensor.from_local(whole(tensor).to(parameter.device), mesh, everywhere, run_check=False)
    moved: Tensor = begun.redistribute(placements=placed.placements)
    return moved


def processes_of(tensors: Iterable[Tensor]) -> Any:
    """Return the process group over which the first of the tensors that is sharded is; None if none is.

    Raises:
        SynapseError: it is sharded over several dimensions of a part of all processes.

    Example:
        >>> import torch
        >>> processes_of([torch.ones(1)]) is None
        True
    """
    sharded: Any = next(filter(is_sharded, tensors), None)
    if sharded is None:
        return None
    mesh = sharded.device_mesh
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() == dist.get_world_size():
        return dist.group.WORLD
    raise SynapseError(
        f"parameters are sharded over {mesh.ndim} dimensions of {mesh.size()} of {dist.get_world_size()} processes, "
        "which have no group of their own: save or estimate from data where they are all of them"
    )


def mean_over_processes(number: Tensor) -> float:
    """Return a number averaged over all processes, so that all of them decide alike; every one must call this.

    Example:
        >>> import torch
        >>> mean_over_processes(torch.tensor(0.5))
        0.5
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return float(number)
    total = number.clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def together(group: Any, action: Callable[[], T]) -> T:
    """Return what an action returns; where it raises in one process of a group, raise that in all of them.

    Args:
        group: None for a process that acts alone.
        action: it must not communicate, as it may raise in one process before others come to it.

    Example:
        >>> together(None, lambda: 3)
        3
    """
    if group is None:
        return action()
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    failures: list[Exception | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(failures, failure, group=group)
    if failure is not None:
        raise failure
    for other in failures:
        if other is not None:
            raise other
    return cast(T, result)


def in_all_processes(tensors: Iterable[Tensor], action: Callable[[], None]) -> None:
    """Do what :func:`together` does, among all processes that share one of the tensors.

    Example:
        >>> import torch
        >>> in_all_processes([torch.ones(1)], lambda: print("done"))
        done
    """
    sharded: Any = list(filter(is_sharded, tensors))
    for mesh in dict.fromkeys(tensor.device_mesh for tensor in sharded):
        for group in mesh.get_all_groups():
            action = partial(together, group, action)
    action()


def _spec(tensor: Any) -> tuple[Any, ...]:
    return (tensor.device_mesh, tuple(tensor.placements)) if is_sharded(tensor) else ()
