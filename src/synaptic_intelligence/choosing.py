"""The strength of the pull, from what the task that ended has gained: without old data, and without a search."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.sharding import mean_over_processes


def suggest_c(synapses: Consolidator, *, loss_before: float, loss_after: float, allowed: float = 1.0) -> float:
    """Return the strength at which going back over the task that ended costs what the task has gained.

    Importance is a loss over a squared way, but damping, and the noise of batches that the path integrates too, put its
    scale off by orders of magnitude: a good ``c`` for one network and length of training is none for another. The task
    that ended sets the scale right. Its loss fell by a known amount, and the surrogate loss of going back is known:
    ``c = (loss_before - loss_after) / sum(omega * (theta - anchor)^2)``, with the anchor where the task began, and the
    omega that the task has added. Old and new loss then count alike, as the paper means it by ``c = 1``.

    Call it after ``consolidate()`` of the first task. It is no promise: what was measured is one path. Where several
    processes train one model the losses are averaged over them, and every process must call this.

    Args:
        synapses: they have just consolidated a task.
        loss_before: mean loss of the task, without any penalty, when it began: asked of some of its training data in
            evaluation mode, or the logarithm of the number of classes where the network knew nothing.
        loss_after: that when it ended, asked of the same data.
        allowed: by how much old losses may rise for each unit by which the new one falls; below 1 holds more.

    Returns:
        The strength, without unit, for ``synapses.c``.

    Raises:
        TypeError: ``c`` is a tensor, one for each replicate; an argument is no number.
        ValueError: the loss did not fall; a loss is not finite, or ``allowed`` not positive.
        SynapseError: no task was consolidated yet, or it moved nothing important; parameter groups with a ``c`` of
            their own.

    Source: Zenke et al. 2017, the text below eq. 4 (``c = 1`` if the path integral were exact). The scale is ours.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([p], lr=0.1)
        >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.0, xi=0.1)
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     loss = 3 * (p - 1).square().sum()  # from 3 to 0
        ...     loss.backward()
        ...     optimizer.step()
        >>> path = synapses.consolidate()
        >>> synapses.c = si.suggest_c(synapses, loss_before=3.0, loss_after=0.0)
        >>> round(synapses.c * synapses.omega["w"].item() * (1 - 0) ** 2, 3)  # the pull's loss, all the way back
        3.0
    """
    if not isinstance(synapses, Consolidator):
        raise TypeError(
            f"synapses must be a Consolidator, not {type(synapses).__name__}: give optimizer.synapses where they are "
            "inside one"
        )
    gain = _loss(loss_before, "loss_before") - _loss(loss_after, "loss_after")
    allowed = checked_number(allowed, "allowed", zero_is_fine=False)
    if isinstance(synapses.c, Tensor):
        raise TypeError(
            "c is one strength for each replicate, and suggest_c gives one for all: set c to a number first"
        )
    own = synapses._binding.own_strengths()
    if own:
        raise SynapseError(
            f"parameter groups {own} set a c of their own, which one suggested strength does not reach: leave it out "
            "there, or use c=None for groups that nothing should hold"
        )
    gain = mean_over_processes(torch.tensor(gain, dtype=torch.float64, device=_device(synapses)))
    if gain <= 0:
        raise ValueError(
            f"the loss did not fall: loss_before minus loss_after is {gain:g}, so there is nothing to hold"
        )
    way_back = synapses._state.way_back
    if way_back is None and synapses.tasks:
        raise SynapseError(
            "the scale of the last task is not known, as after loading a merged file: call suggest_c after a task that "
            "is learnt here"
        )
    if way_back is None:
        raise SynapseError("no task was consolidated yet, and the scale is that of a task: call it after consolidate()")
    if not 0 < way_back < math.inf:
        raise SynapseError("the task that ended moved nothing that is important, so its importance has no scale")
    c = gain / way_back / allowed
    if not 0 < c < math.inf:
        raise SynapseError(f"no strength can be given: a gain of {gain:g} over {way_back:g}, at allowed={allowed:g}")
    return c


def _loss(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number such as 2.3, not {type(value).__name__}")
    if not math.isfinite(value):  # below zero is fine: the loss of a density may be
        raise ValueError(f"{name} must be finite, not {value!r}")
    return float(value)


def _device(synapses: Consolidator) -> torch.device:
    """Return where processes can exchange numbers: nccl takes none from the CPU."""
    return next(iter(synapses.anchor.values())).device
