"""Checks of the numbers that users pass."""

from __future__ import annotations

import math
from numbers import Real


def checked_number(value: object, name: str, *, zero_is_fine: bool, most: float = math.inf) -> float:
    """Return ``value`` as a float if it is positive and finite, or zero where that is fine.

    Args:
        value: any real number, also of numpy; tensors and booleans are refused.
        name: what it is called, for the message.
        zero_is_fine: whether zero passes.
        most: the largest that passes.

    Raises:
        TypeError: not a number.
        ValueError: negative, zero where that is not fine, infinite or NaN, or too large.

    Example:
        >>> checked_number(1, "c", zero_is_fine=True)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number such as 0.1, not {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero_is_fine):
        least = "zero or positive," if zero_is_fine else "positive"
        raise ValueError(f"{name} must be {least} and finite, not {value!r}")
    if number > most:
        raise ValueError(f"{name} must be at most {most:g}, not {value!r}")
    return number
