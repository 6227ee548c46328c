"""The equations of synaptic intelligence, as functions on tensors: each once, for one tensor, in the plainest form.

What runs at every optimizer step is the same in place: in_place.py for lists of tensors, kernel.c compiled. Tests hold
them together.

Source: Zenke, Poole, Ganguli, *Continual Learning Through Synaptic Intelligence*, ICML 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
