"""The strength of the pull, from what the task that ended has gained: without old data, and without a search."""

from __future__ import annotations

import math

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError


def suggest_c(synapses: Consolidator, *, loss_before: float, loss_after: float, allowed: float = 1.0) -> float:
    """Return the strength at which going back over the task that ended costs what the task has gained.

    Importance is a loss over a squared way, but damping, and the noise of batches that the path integrates too, put its
    scale off by orders of magnitude: a good ``c`` for one network and length of training is none for another. The task
    that ended sets the scale right. Its loss fell by a known amount, and the surrogate loss of going back is known:
    ``c = (loss_before - loss_after) / sum(omega * (theta - anchor)^2)``, with the anchor where the task began, and the
    omega that the task has added. Old and new loss then count alike, as the paper means it by ``c = 1``.

    Call it right after ``consolidate()`` of the first task. It is no promise: what was measured is one path.

    Args:
        synapses: they have just consolidated a task.
        loss_before: mean loss of the task, without any penalty, when it began: of the first batches, or the logarithm
            of the number of classes where the network knew nothing.
        loss_after: mean loss of the task when it ended, such as the mean over its last epoch.
        allowed: by how much old losses may rise for each unit by which the new one falls; below 1 holds more.

    Returns:
        The strength, without unit, for ``synapses.c``.

    Raises:
        ValueError: the loss did not fall; a number is negative or not finite.
        SynapseError: no task was consolidated since the synapses were made or loaded, or it moved nothing important.

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
    before = checked_number(loss_before, "loss_before", zero_is_fine=True)
    after = checked_number(loss_after, "loss_after", zero_is_fine=True)
    allowed = checked_number(allowed, "allowed", zero_is_fine=False)
    if before <= after:
        raise ValueError(f"the loss did not fall, from loss_before={before:g} to loss_after={after:g}: nothing to hold")
    way_back = synapses._state.way_back
    if way_back is None:
        raise SynapseError(
            "no task was consolidated since these synapses were made or loaded, and the scale is that of a task: call "
            "suggest_c right after consolidate(), and keep c"
        )
    surrogate = float(way_back)
    c = (before - after) / (allowed * surrogate) if surrogate > 0 else math.inf
    if not math.isfinite(c):
        raise SynapseError("the task that ended moved nothing that is important, so its importance has no scale")
    return c
