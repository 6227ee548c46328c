"""What pulls: the surrogate loss of the parameters now, and how much of the gradient is the pull."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.diagnosis.stability import StrengthOf
from synaptic_intelligence.functional import surrogate_gradient, surrogate_loss
from synaptic_intelligence.sharding import placed_like, whole
from synaptic_intelligence.state import State
from synaptic_intelligence.strength import Strength, folded, pulls


class _Synapses(NamedTuple):
    """What one parameter is pulled by; placed as the optimizer holds it now, while those of the state stay."""

    name: str
    parameter: Tensor
    anchor: Tensor
    omega: Tensor
    c: Strength


def _pulling(binding: Binding, state: State, strength: StrengthOf) -> list[_Synapses]:
    """Return them for all parameters; none before there is an omega, or if the anchor still follows the weights.

    Raises:
        SynapseError: the optimizer holds other parameters.
    """
    parameters = binding.parameters()
    state.refuse_others(parameters)
    if not state.omega or state.untouched:
        return []
    found = []
    for _, group, names in binding.groups():
        c = strength(group, names)
        for name in names:
            parameter = parameters[name]
            anchor, omega = (
                placed_like(tensor.to(parameter.device), parameter)
                for tensor in (state.anchor[name], state.omega[name])
            )
            found.append(_Synapses(name, parameter, anchor, omega, c))
    return found


@torch.no_grad()
def penalty(binding: Binding, state: State, strength: StrengthOf) -> Tensor:
    """Return the surrogate loss of the parameters as the optimizer holds them now; change nothing.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.

    Returns:
        A tensor without dimensions, in units of the loss; where parameters are sharded, of all their parts: every
        process must call this.

    Source: Zenke et al. 2017, second term of eq. 4.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding, state = Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), State({"w": p}, integrates_path=True)
        >>> penalty(binding, state, lambda group, names: 1.0)
        tensor(0.)
    """
    first = next(iter(state.anchor.values()))
    zero = torch.zeros((), dtype=first.dtype, device=first.device)
    terms = [
        whole(surrogate_loss(each.parameter, each.anchor, *folded(each.omega, each.c))).to(zero)
        for each in _pulling(binding, state, strength)
    ]
    return torch.stack([zero, *terms]).sum()


def is_pulled(binding: Binding, state: State, strength: StrengthOf) -> bool:
    """Return whether any parameter is pulled, if it has moved."""
    return state.tasks > 0 and any(pulls(strength(group, names)) for _, group, names in binding.groups())


def pull_share(binding: Binding, state: State, strength: StrengthOf) -> tuple[float | None, str | None]:
    """Return how much of the gradient is the pull, by their norms, where it is most, and in which parameter.

    Parameters without a gradient of the task are passed over: these have nothing that a pull could drown.
    """
    names, squares = [], []
    for each in _pulling(binding, state, strength):
        gradient = each.parameter.grad
        if gradient is None or gradient.layout is not torch.strided or not pulls(each.c):
            continue
        pull = surrogate_gradient(each.parameter, each.anchor, *folded(each.omega, each.c))
        names.append(each.name)
        squares += [_square(placed_like(gradient, each.parameter)), _square(pull)]
    if not squares:
        return None, None
    widest = max((square.dtype for square in squares), key=lambda dtype: dtype.itemsize)
    read = torch.stack([square.to(squares[0].device, widest) for square in squares]).sqrt().tolist()
    shares = {}
    for name, task, pull in zip(names, read[::2], read[1::2], strict=True):
        if not math.isfinite(task + pull):
            return math.nan, name
        if task > 0:  # zero as zero_grad(set_to_none=False) leaves it
            shares[name] = pull / (task + pull)
    most = max(shares, key=shares.__getitem__, default=None)
    return (None, None) if most is None else (shares[most], most)


def _square(tensor: Tensor) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return whole(tensor.to(wide).square().sum())
