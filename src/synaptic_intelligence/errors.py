"""The exception and the warning that are the library's own."""

from __future__ import annotations


class SynapseError(RuntimeError):
    """The synapses cannot go on without giving wrong numbers; nothing was changed.

    Example:
        >>> issubclass(SynapseError, RuntimeError)
        True
    """


class SynapseWarning(UserWarning):
    """Something is probably not what the user meant; the numbers stay as the equations give them.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", SynapseWarning)  # to stop at the first
        >>> warnings.simplefilter("default", SynapseWarning)
    """
