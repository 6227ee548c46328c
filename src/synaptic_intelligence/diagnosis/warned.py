"""What users were warned of, so that they are told once."""

from __future__ import annotations

from typing import final

from synaptic_intelligence.errors import warn


@final
class Warned:
    """What users were warned of, so that they are not told again as long as it lasts.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warned = Warned()
        ...     for share in (0.7, 0.8, None, 0.9):  # four tasks
        ...         warned.judge("still", None if share is None else f"{share} stayed")
        ...         warned.end_task()
        >>> [str(warning.message) for warning in caught]
        ['0.7 stayed', '0.9 stayed']
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._judged: set[str] = set()  # in this task
        self._found: set[str] = set()

    def judge(self, what: str, message: str | None) -> None:
        """Warn of something, unless it was warned of and has not been away for a task since.

        Args:
            what: a short key.
            message: None: it was looked for, and is not there.
        """
        self._judged.add(what)
        if message is None:
            return
        self._found.add(what)
        if what not in self._told:
            warn(message)  # which may raise, and then it is to be told again
            self._told.add(what)

    def end_task(self) -> None:
        """Forget what was looked for in this task, and not found."""
        self._told -= self._judged - self._found
        self._judged, self._found = set(), set()
