"""Choices of an estimator: a damping, for the path integral, or any other; and what weights without synapses take."""

from __future__ import annotations

from synaptic_intelligence.errors import warn
from synaptic_intelligence.importance.estimator import Importance
from synaptic_intelligence.importance.path_integral import PathIntegral
from synaptic_intelligence.importance.uniform import Uniform


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


def importance_to_start_from(importance: Importance | None, data: object) -> Importance:
    """Return the estimator that was given for weights without synapses, or the uniform one, with a warning.

    Raises:
        TypeError: there is data, and nothing that estimates from it.
        ValueError: it integrates the path, and there was none.

    Example:
        >>> import synaptic_intelligence as si
        >>> importance_to_start_from(si.Uniform(), None)
        Uniform(value=1.0)
    """
    if importance is None:
        if data is not None:
            raise TypeError("bootstrap(importance, data): name what estimates from the data, such as Fisher or MAS")
        warn("bootstrap without an estimator holds every number alike (L2-SP): an anchor, not an importance")
        return Uniform()
    if importance.integrates_path:
        raise ValueError(f"{importance.name} integrates the path of a training that was not seen: use ShortPath(...)")
    return importance
