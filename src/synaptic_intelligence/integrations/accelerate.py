"""Synapses in a loop of Accelerate: made, and registered for its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

import synaptic_intelligence as si

try:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import DistributedType
except ImportError as error:
    hint = 'pip install "synaptic-intelligence[accelerate]"'
    raise ImportError(f"register_synapses needs accelerate: {hint}") from error


def register_synapses(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    c: float | Tensor,
    xi: float | None = None,
    importance: si.Importance | None = None,
    omega_dtype: torch.dtype | None = None,
    protect: Callable[[str], bool] = lambda name: True,
) -> si.Consolidator:
    """Make synapses that are saved by ``accelerator.save_state`` and loaded by ``load_state``.

    Before ``accelerator.prepare`` or after it. A later optimizer takes them over by
    ``synapses.attach(optimizer.optimizer)``: the one inside that which ``prepare`` gave.

    Args:
        accelerator: it saves the synapses as one of its custom objects, so register these in the same order each time.
        model, optimizer: as they are, or as ``prepare`` gave them.
        c, omega_dtype: as for :class:`~synaptic_intelligence.Consolidator`.
        xi: damping of the path integral, in theta^2.
        importance: another estimator than the path integral, instead of ``xi``.
        protect: by name in the bare model, whether a parameter gets synapses; by default all that are trained do.

    Raises:
        ValueError: both or neither of ``xi`` and ``importance``.
        SynapseError: DeepSpeed or Megatron-LM, which keep gradients from the optimizer's hooks.
        TypeError, ValueError, SynapseError: as for :class:`~synaptic_intelligence.Consolidator`.

    Source: Zenke, Poole, Ganguli 2017, *Continual Learning Through Synaptic Intelligence*.

    Example:
        >>> import accelerate, torch
        >>> accelerator, model = accelerate.Accelerator(cpu=True), torch.nn.Linear(2, 1)
        >>> model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
        >>> synapses = register_synapses(accelerator, model, optimizer, c=0.1, xi=0.1)
        >>> for x in torch.ones(3, 4, 2):
        ...     with accelerator.accumulate(model):
        ...         accelerator.backward((model(x) - 1).square().mean())
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> sorted(synapses.consolidate())
        ['bias', 'weight']
    """
    importance = si.importance_of(xi, importance)
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise si.SynapseError(f"{accelerator.distributed_type} keeps gradients from the optimizer's hooks: use FSDP2")
    if isinstance(optimizer, AcceleratedOptimizer):  # it has no hooks itself
        optimizer = optimizer.optimizer
    bare = accelerator.unwrap_model(model, keep_torch_compile=False)
    named = ((name, p) for name, p in bare.named_parameters() if protect(name))
    synapses = si.Consolidator(named, optimizer, importance, c=c, omega_dtype=omega_dtype)
    accelerator.register_for_checkpointing(_Whole(synapses))
    return synapses


@final
class _Whole:
    """The state of synapses with whole tensors: Accelerate saves what the first process has, and all load that."""

    def __init__(self, synapses: si.Consolidator) -> None:
        self._synapses = synapses

    def state_dict(self) -> dict[str, Any]:
        state = self._synapses.state_dict()
        for kind in ("omega", "anchor", "path"):
            state[kind] = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state[kind].items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._synapses.load_state_dict(state)
