"""What is raised when a data set cannot be read."""

from __future__ import annotations

from typing import final


@final
class DataError(ValueError):
    """A data file is missing, damaged or not the right one; the message names it and says how to provide it.

    Example:
        >>> issubclass(DataError, ValueError)
        True
    """
