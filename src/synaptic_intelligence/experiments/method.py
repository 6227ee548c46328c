"""The ways to learn a stream of tasks: synaptic intelligence, and what it is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from synaptic_intelligence.document import exact

RIVALS = {
    "ewc": "elastic weight consolidation, with its strength: ewc:100",
    "sgd-dropout": "plain SGD with dropout, without synapses",
    "scratch": "a fresh network for each task",
    "joint": "one network that learns all tasks at once",
}
"""What synaptic intelligence (``si``) is compared with, by name."""


@final
@dataclass(frozen=True)
class Method:
    """One way to learn a stream of tasks.

    Args:
        name: ``si`` or one of ``RIVALS``.
        c: strength of the pull, for those that have one: ``si`` and ``ewc``.

    Example:
        >>> str(Method("si", 0.1)), str(Method.parse("ewc:100")), Method.parse("joint").shares_first_task
        ('c = 0.1', 'ewc, c = 100', False)
    """

    name: str
    c: float | None = None

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the rival that ``text`` names.

        Raises:
            ValueError: there is no such rival, or its strength is missing, superfluous or makes no sense.
        """
        name, colon, strength = text.partition(":")
        if name not in RIVALS:
            raise ValueError(f"rivals must be some of {', '.join(RIVALS)}, not {text!r}")
        if name != "ewc":
            if colon:
                raise ValueError(f"rivals: {name} has no strength: write {name!r}, not {text!r}")
            return cls(name)
        try:
            c = float(strength)
        except ValueError:
            c = math.nan
        if not (math.isfinite(c) and c > 0):
            raise ValueError(f"rivals: ewc needs a positive finite strength, as in 'ewc:100', not {text!r}")
        return cls(name, c)

    @property
    def shares_first_task(self) -> bool:
        """Whether its first task is that of synaptic intelligence with any strength, as nothing is held yet."""
        return self.name in ("si", "ewc", "scratch")

    @property
    def file_name(self) -> str:
        """What it is called in the names of files."""
        strength = "" if self.c is None else f"c-{self.c!r}"
        return strength if self.name == "si" else "-".join(part for part in (self.name, strength) if part)

    def __str__(self) -> str:
        strength = "" if self.c is None else f"c = {exact(self.c)}"
        return strength if self.name == "si" else ", ".join(part for part in (self.name, strength) if part)
