"""The equations of functional.py once more, in place and with few launches: what runs where the kernel does not.

``work`` is overwritten; it is in the dtype of path and omega, so that the differences of low-precision parameters are
not rounded to the parameters' own dtype.

Source: Zenke, Poole, Ganguli, *Continual Learning Through Synaptic Intelligence*, ICML 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch's foreach functions take


def add_surrogate_gradients_(
    gradients: Tensors,
    parameters: Tensors,
    anchors: Tensors,
    omegas: Tensors,
    c: float | Tensors,
    work: Tensors,
) -> None:
    """Add :func:`~synaptic_intelligence.functional.surrogate_gradient` to each gradient.

    Args:
        gradients: what is added to, one tensor for each parameter.
        parameters, anchors, omegas: of the same shapes.
        c: strength; negative where the optimizer maximizes. Or tensors that broadcast over the parameters.
        work: scratch tensors of the same shapes, overwritten.

    Source: Zenke et al. 2017, derivative of the second term of eq. 4.

    Example:
        >>> g, one = [torch.zeros(1)], torch.ones(1)
        >>> add_surrogate_gradients_(g, [3 * one], [one], [2 * one], 0.5, [torch.empty(1)])
        >>> g
        [tensor([4.])]
    """
    torch._foreach_copy_(work, parameters)
    torch._foreach_sub_(work, anchors)
    if isinstance(c, (list, tuple)):
        torch._foreach_mul_(work, c)
        c = 1.0
    torch._foreach_addcmul_(gradients, work, omegas, value=2 * c)


def integrate_paths_(
    paths: Tensors,
    gradients: Tensors,
    before: Tensors,
    after: Tensors,
    *,
    maximize: bool = False,
) -> Tensor:
    """Add :func:`~synaptic_intelligence.functional.path_increment` of one step to each path, but what is not finite.

    Args:
        paths: running sums, in units of the loss.
        gradients: gradients of the task loss before the step (of the objective, with ``maximize``).
        before: the parameters before the step; overwritten.
        after: the parameters after the step.
        maximize: whether the optimizer maximizes, so that the loss is minus the objective.

    Returns:
        A tensor without dimensions on the device of the paths: 1 if any increment was not finite, else 0.

    Source: Zenke et al. 2017, eq. 3.

    Example:
        >>> path = [torch.zeros(2)]
        >>> integrate_paths_(path, [torch.tensor([2.0, torch.inf])], [torch.ones(2)], [torch.zeros(2)])
        tensor(1)
        >>> path
        [tensor([2., 0.])]
    """
    torch._foreach_sub_(before, after)
    torch._foreach_mul_(before, gradients)
    increments = before
    if _surely_finite(increments):
        overflow = torch.zeros((), dtype=torch.int64, device=increments[0].device)
    else:
        finite = [increment.isfinite().all().to(increments[0].device) for increment in increments]
        overflow = torch.stack(finite).all().logical_not().long()
        for increment in increments:
            increment.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    if maximize:
        torch._foreach_sub_(paths, increments)
    else:
        torch._foreach_add_(paths, increments)
    return overflow


def _surely_finite(tensors: Tensors) -> bool:
    """Whether every element is finite, asked cheaply; "no" where that would be dear, or is not certain.

    A sum is finite only if all its terms are, and costs a fraction of asking each. On an accelerator, reading the
    answer would make the CPU wait at every step.
    """
    return all(t.is_cpu for t in tensors) and bool(torch.stack([t.sum() for t in tensors]).isfinite().all())


def consolidated_omega_(omega: Tensor, path: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """Return the importance at the end of a task in the memory of the displacement, which is overwritten.

    Args and units as in :func:`~synaptic_intelligence.functional.consolidated_omega`.

    Source: Zenke et al. 2017, eq. 5, as the authors implement it.

    Example:
        >>> displacement = torch.tensor([1.0])
        >>> consolidated_omega_(torch.zeros(1), torch.tensor([1.0]), displacement, xi=1.0) is displacement
        True
    """
    torch.div(path, displacement.square_().add_(xi), out=displacement)
    return displacement.add_(omega).relu_()
