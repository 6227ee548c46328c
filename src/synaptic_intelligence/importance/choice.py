"""Choices of an estimator: a damping, for the path integral, or any other; and what weights without synapses take."""

from __future__ import annotations

from synaptic_intelligence.errors import warn
from synaptic_intelligence.importance.estimator import Importance, refuse_other_data
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


def importance_to_start_from(importance: Importance | None, data: object, own: Importance) -> Importance:
    """Return the estimator for weights without synapses: that which was given, the own one, or the uniform one.

    Args:
        importance: what was given.
        data: what it estimates from.
        own: that of the synapses, for where there is data and no estimator was given.

    Raises:
        TypeError: it is no estimator; data is missing, or given to one that uses none.
        ValueError: it integrates the path, and there was none.

    Example:
        >>> import synaptic_intelligence as si
        >>> importance_to_start_from(si.Uniform(), None, si.PathIntegral(0.1))
        Uniform(value=1.0)
    """
    if importance is None and data is None:
        warn("bootstrap without an estimator holds every number alike (L2-SP): an anchor, not an importance")
        return Uniform()
    if importance is None and not own.needs_data:
        raise TypeError("bootstrap(importance, data): name what estimates from the data, such as Fisher or MAS")
    importance = own if importance is None else importance
    if isinstance(importance, type):
        raise TypeError(f"bootstrap(importance, data): {importance.__name__} is the class, make an estimator of it")
    if not callable(getattr(importance, "new_omega", None)):
        raise TypeError(f"bootstrap(importance, data): the first is an estimator, not {type(importance).__name__}")
    refuse_other_data(importance, data, "bootstrap")
    if importance.integrates_path:
        raise ValueError(f"{importance.name} integrates the path of a training that was not seen: use ShortPath(...)")
    return importance
