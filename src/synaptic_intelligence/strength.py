"""The strength of the pull: one number, or one for each replicate where these are stacked along a leading axis.

Inside the library it is a float or a tuple of floats, on the host, so that no step waits for a device to read it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, optim

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.sharding import is_sharded

Strength: TypeAlias = float | tuple[float, ...]

# They move each number by its own gradients alone. A class derived from one of these may do otherwise.
_ELEMENTWISE = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Adagrad, optim.Adadelta),
    *(optim.Adamax, optim.ASGD, optim.Rprop),
)


def checked_strength(value: object, name: str) -> Strength:
    """Return a number as a float, or a tensor ``[R]`` as a tuple, if all in it are finite and not negative.

    Raises:
        TypeError: neither a number nor a floating-point tensor.
        ValueError: negative, infinite or NaN; a tensor that has not one dimension, is empty, or not on the CPU.

    Example:
        >>> checked_strength(1, "c"), checked_strength(torch.tensor([0.0, 0.5]), "c")
        (1.0, (0.0, 0.5))
    """
    if not isinstance(value, Tensor):
        return checked_number(value, name, zero_is_fine=True)
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, or a number such as 0.1, not {value.dtype}")
    if value.ndim != 1 or not len(value):
        raise ValueError(f"{name} must be a number, or a tensor of one for each replicate: not {list(value.shape)}")
    if not value.is_cpu:
        raise ValueError(f"{name} must be on the CPU, as each step looks at it: {name}.cpu(), not {value.device}")
    return tuple(checked_number(number, name, zero_is_fine=True) for number in value.tolist())


def as_given(c: Strength) -> float | Tensor:
    """Return a strength as users give it: a number, or a float64 tensor ``[R]``.

    Example:
        >>> as_given((0.0, 0.5))
        tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    return torch.tensor(c, dtype=torch.float64, device="cpu") if isinstance(c, tuple) else c


def refuse_unfit(c: Strength, optimizer: optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """Raise where there is a strength for each replicate, and optimizer or parameters are not made of replicates.

    Raises:
        TypeError: the optimizer may mix replicates, or a parameter is sharded.
        ValueError: a parameter has no leading axis of as many replicates.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2, 3))
        >>> refuse_unfit((0.0, 0.5), torch.optim.Adam([weight]), {"weight": weight})
    """
    if not isinstance(c, tuple):
        return
    kind = type(optimizer)
    if kind not in _ELEMENTWISE:
        known = ", ".join(each.__name__ for each in _ELEMENTWISE)
        raise TypeError(
            f"a strength for each replicate needs an optimizer that never mixes them, torch.optim's {known}: not "
            f"{kind.__module__}.{kind.__name__}"
        )
    for name, parameter in parameters.items():
        if is_sharded(parameter):
            raise TypeError(f"c is one strength for each replicate, and parameter {name!r} is sharded: give one number")
        if parameter.shape[:1] != (len(c),):
            raise ValueError(
                f"c has {len(c)} strengths, so parameter {name!r} needs a leading axis of {len(c)} replicates; its "
                f"shape is {list(parameter.shape)}"
            )


def pulls(c: Strength) -> bool:
    """Whether any strength is above zero.

    Example:
        >>> pulls(0.0), pulls((0.0, 0.5))
        (False, True)
    """
    return (max(c) if isinstance(c, tuple) else c) > 0


def negative(c: Strength) -> Strength:
    """Return minus the strength, as where the optimizer maximizes.

    Example:
        >>> negative((0.0, 0.5))
        (-0.0, -0.5)
    """
    return tuple(-number for number in c) if isinstance(c, tuple) else -c


def folded(omega: Tensor, c: Strength) -> tuple[Tensor, float]:
    """Return an importance and one number whose product is the importance times its strength.

    Example:
        >>> folded(torch.ones(2, 2), (0.0, 0.5))
        (tensor([[0.0000, 0.0000],
                [0.5000, 0.5000]]), 1.0)
    """
    return (along_first_axis(c, omega) * omega, 1.0) if isinstance(c, tuple) else (omega, c)


def along_first_axis(c: tuple[float, ...], like: Tensor) -> Tensor:
    """Return the strengths as a tensor that broadcasts over the leading axis of ``like``, on its device.

    Example:
        >>> along_first_axis((0.0, 0.5), torch.ones(2, 3)).shape
        torch.Size([2, 1])
    """
    return _on_device(c, like.dtype, like.device).view(-1, *[1] * (like.ndim - 1))


@functools.lru_cache(maxsize=64)  # to copy it to a GPU makes the CPU wait
def _on_device(c: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(c, dtype=dtype, device=device)
