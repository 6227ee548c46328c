"""A scale of accuracies that is logarithmic in the error, for what lies close to 1 beside what lies far below it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

_LINEAR = 1e-3  # below this error the scale is linear, so that an accuracy of 1, too, has its place
_TICKS = (0.2, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1)


def set_error_scale(ax: Axes, lowest: float, highest: float) -> None:
    """Make the scale of ``ax``, whose y are accuracies (fractions), logarithmic in the error.

    It reaches from a little below the lowest accuracy to a little above the highest; ticks are accuracies.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> set_error_scale(ax, 0.5, 1.0)
        >>> low, high = ax.get_ylim()
        >>> bool(low < 0.5 and high > 1)
        True
    """
    ax.set_yscale("function", functions=(_height, _accuracy))
    low, high = _height(np.array([lowest, highest]))
    # Below there is room for a word.
    bottom, top = low - 0.1 * (high - low) - 0.02, high + 0.06 * (high - low) + 0.02
    ax.set_ylim(*_accuracy(np.array([bottom, top])))
    ticks: list[float] = []
    for tick, y in zip(_TICKS, _height(np.array(_TICKS)), strict=True):
        if bottom <= y <= top and (not ticks or y - _height(np.array(ticks[-1])) > (top - bottom) / 12):
            ticks.append(tick)
    ax.yaxis.set_major_locator(FixedLocator(ticks) if len(ticks) > 3 else MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter("{x:g}")


def _height(accuracy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -np.arcsinh((1 - accuracy) / _LINEAR)


def _accuracy(height: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 + _LINEAR * np.sinh(height)
