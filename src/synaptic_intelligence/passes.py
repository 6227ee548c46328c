"""The two passes over memory around an optimizer's step: by the kernel where it can, else by torch's foreach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import not_

import torch
from torch import Tensor

from synaptic_intelligence import native
from synaptic_intelligence.in_place import add_surrogate_gradients_, integrate_paths_
from synaptic_intelligence.native import Row
from synaptic_intelligence.strength import Strength, along_first_axis


def pass_before(rows: Sequence[Row], c: Strength, *, integrates: bool, plan: native.Plan | None = None) -> None:
    """Prepare what a step needs: the gradients with their pull, for the optimizer, and the parameters as they are.

    Args:
        rows: for each parameter: the parameter, its gradient of the task loss (None: none), anchor and omega (both
            None: nothing pulls), two tensors that are overwritten, with the gradient that the optimizer is given, in
            the gradient's dtype, and with the parameter from before the step, in that of the path; and omega once more
            where it is bfloat16 (it is None in its other place then).
        c: strength, or one for each replicate along the first axis; negative where the optimizer maximizes.
        integrates: whether the parameter from before the step is wanted.
        plan: kept from step to step; None: each row is looked over anew.

    Source: Zenke et al. 2017, derivative of the second term of eq. 4.

    Example:
        >>> p, g, used, before = torch.ones(1), torch.ones(1), torch.empty(1), torch.empty(1)
        >>> pass_before([(p, g, torch.zeros(1), torch.ones(1), used, before, None)], c=0.5, integrates=True)
        >>> used, before
        (tensor([2.]), tensor([1.]))
    """
    fast, slow = _divided(rows, plan or native.Plan("pull"))
    fast, strengths = _by_replicate(fast, c)
    walked = fast if integrates else [(*row[:5], None, row[6]) for row in fast]
    native.run("pull", walked, [[2 * each] for each in strengths])
    for _, gradient, _, _, given, *_ in slow:
        assert given is not None
        given.zero_() if gradient is None else given.copy_(gradient)
    pulled = [(*row[:3], row[6] if row[3] is None else row[3], *row[4:6]) for row in slow if row[2] is not None]
    if pulled:
        parameters, _, anchors, omegas, used, work = _columns(pulled)
        many = [along_first_axis(c, tensor) for tensor in work] if isinstance(c, tuple) else c
        add_surrogate_gradients_(used, parameters, anchors, omegas, many, work)
    if integrates and slow:
        parameters, *_, before, _ = _columns(slow)
        torch._foreach_copy_(before, parameters)


def pass_after(rows: Sequence[Row], *, maximize: bool, plan: native.Plan | None = None) -> Tensor:
    """Add to the paths what the step that was taken lowered the loss by; what is not finite adds nothing.

    Args:
        rows: for each parameter: the parameter, its gradient of the task loss, its path, and the parameter from before
            the step, which is overwritten.
        maximize: whether the optimizer maximizes.
        plan: as for :func:`pass_before`, and another one.

    Returns:
        A tensor without dimensions: 1 if an increment was not finite, else 0.

    Source: Zenke et al. 2017, eq. 3.

    Example:
        >>> p, g, path, before = torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1)
        >>> pass_after([(p, g, path, before)], maximize=False), path
        (tensor(0), tensor([1.]))
    """
    fast, slow = _divided(rows, plan or native.Plan("integrate_all"))
    overflow = torch.tensor(int(native.run("integrate_all", fast, [[-1.0 if maximize else 1.0]] * len(fast))))
    if slow:
        parameters, gradients, paths, before = _columns(slow)
        found = integrate_paths_(paths, gradients, before, parameters, maximize=maximize)
        overflow = torch.maximum(found, overflow.to(found)) if fast else found
    return overflow


def _divided(rows: Sequence[Row], plan: native.Plan) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return the rows that the kernel can walk over, and the others."""
    fits = plan.fits(rows)
    if all(fits):
        return rows, []
    return [*compress(rows, fits)], [*compress(rows, map(not_, fits))]


def _by_replicate(rows: Sequence[Row], c: Strength) -> tuple[Sequence[Row], Sequence[float]]:
    """Return rows and the strength of each: the rows as they are, or cut where each replicate has its own."""
    if not isinstance(c, tuple):
        return rows, [c] * len(rows)
    cut: list[Row] = []
    for row in rows:
        cut += zip(*(len(c) * (None,) if tensor is None else tensor.unbind() for tensor in row), strict=True)
    return cut, len(rows) * c


def _columns(rows: Sequence[Row]) -> list[list[Tensor]]:
    return [[tensor for tensor in column if tensor is not None] for column in zip(*rows, strict=True)]
