"""The choice that integrations offer: a damping, for the path integral, or any other estimator."""

from __future__ import annotations

from synaptic_intelligence.importance.estimator import Importance
from synaptic_intelligence.importance.path_integral import PathIntegral


def importance_of(xi: float | None, importance: Importance | None) -> Importance:
    """Return the estimator that was given, or the path integral with this damping.

    Args:
        xi: damping of the path integral, in theta^2.
        importance: another estimator, instead.

    Raises:
        ValueError: both, neither, or a damping that is not positive and finite.

    Example:
        >>> import synaptic_intelligence as si
        >>> si.importance_of(0.1, None)
        PathIntegral(xi=0.1)
    """
    if importance is None and xi is not None:
        return PathIntegral(xi)
    if importance is None or xi is not None:
        raise ValueError("give xi, for the path integral, or importance, for another estimator: one of them")
    return importance
