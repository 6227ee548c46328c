"""The equations of synaptic intelligence, as functions on tensors.

The first half says each equation once, for one tensor, in the plainest form. The second half is the same for lists of
tensors, in place, with few launches: what runs at every optimizer step. A test holds the two together.

Source: Zenke, Poole, Ganguli, *Continual Learning Through Synaptic Intelligence*, ICML 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch's foreach functions take


def path_increment(gradient: Tensor, delta: Tensor) -> Tensor:
    """Return by how much one step of each synapse lowered the loss, to first order.

    Args:
        gradient: gradient of the task loss before the step, any shape, in loss / theta.
        delta: parameter after the step minus before, same shape, in theta.

    Returns:
        Same shape, in units of the loss; positive where the loss went down.

    Source: Zenke et al. 2017, eq. 3, one step of the sum.

    Example:
        >>> path_increment(torch.tensor([2.0, -1.0]), torch.tensor([-0.5, -0.5]))
        tensor([ 1.0000, -0.5000])
    """
    return -gradient * delta


def consolidated_omega(omega: Tensor, path: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """Return the importance at the end of a task: the running sum over tasks, never below zero.

    Args:
        omega: importance before the task, any shape, in loss / theta^2.
        path: the path integral of the task, same shape, in units of the loss.
        displacement: parameter now minus anchor, same shape, in theta.
        xi: damping, in theta^2; positive.

    Returns:
        Same shape as ``omega``, in loss / theta^2.

    Source: Zenke et al. 2017, eq. 5. The paper has no relu; the authors' code applies it to the running sum.

    Example:
        >>> zero = torch.zeros(2)
        >>> consolidated_omega(zero, torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]), xi=1.0)
        tensor([0.5000, 0.0000])
    """
    return torch.relu(omega + path / (displacement.square() + xi))


def consolidated_omega_(omega: Tensor, path: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """Return :func:`consolidated_omega` in the memory of the displacement, which is overwritten.

    Example:
        >>> displacement = torch.tensor([1.0])
        >>> consolidated_omega_(torch.zeros(1), torch.tensor([1.0]), displacement, xi=1.0) is displacement
        True
    """
    torch.div(path, displacement.square_().add_(xi), out=displacement)
    return displacement.add_(omega).relu_()


def surrogate_loss(parameter: Tensor, anchor: Tensor, omega: Tensor, c: float) -> Tensor:
    """Return the quadratic penalty that holds one tensor at its anchor.

    Args:
        parameter: any shape, in theta.
        anchor: the parameter at the end of the last task, same shape, in theta.
        omega: importance, same shape, in loss / theta^2.
        c: strength, without unit.

    Returns:
        A tensor without dimensions, in units of the loss.

    Source: Zenke et al. 2017, eq. 4, its second term; there is no factor 1/2.

    Example:
        >>> one = torch.ones(3)
        >>> surrogate_loss(3 * one, one, 2 * one, c=0.5)
        tensor(12.)
    """
    return c * (omega * (parameter - anchor).square()).sum()


def surrogate_gradient(parameter: Tensor, anchor: Tensor, omega: Tensor, c: float) -> Tensor:
    """Return the gradient of :func:`surrogate_loss` with respect to the parameter.

    Args and units as in :func:`surrogate_loss`.

    Returns:
        Same shape as ``parameter``, in loss / theta.

    Source: Zenke et al. 2017, derivative of the second term of eq. 4.

    Example:
        >>> one = torch.ones(1)
        >>> surrogate_gradient(3 * one, one, 2 * one, c=0.5)
        tensor([4.])
    """
    return 2 * c * omega * (parameter - anchor)


# The same for lists of tensors, in place. `work` is overwritten; it is in the dtype of path and omega, so that the
# differences of low-precision parameters are not rounded to the parameters' own dtype.


def add_surrogate_gradients_(
    gradients: Tensors,
    parameters: Tensors,
    anchors: Tensors,
    omegas: Tensors,
    c: float | Tensors,
    work: Tensors,
) -> None:
    """Add :func:`surrogate_gradient` to each gradient, in place.

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
    """Add :func:`path_increment` of one step to each path, in place; what is not finite adds nothing.

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
