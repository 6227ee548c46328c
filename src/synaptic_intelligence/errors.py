"""The exception and the warning that are the library's own."""

from __future__ import annotations

import sys
import warnings

_INSIDE = {"synaptic_intelligence", "torch", "contextlib"}


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


def warn(message: str) -> None:
    """Give a :class:`SynapseWarning` that points at the user's own line, not into the library or torch.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("look here")
        >>> str(caught[0].message)
        'look here'
    """
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SynapseWarning, stacklevel=level)


def printable(text: str, most: int = 200) -> str:
    """Return a text with its control characters escaped, which a terminal would obey, and cut in the middle if long.

    Example:
        >>> printable("a\\n\\x1b[2J")
        'a\\\\n\\\\x1b[2J'
        >>> printable("0123456789", most=4)
        '01...89'
    """
    cut = text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)
