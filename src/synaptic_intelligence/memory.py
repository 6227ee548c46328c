"""What the synapses take in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from synaptic_intelligence.sharding import local


@final
@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the synapses hold between two steps, beyond what training without them holds, in this process.

    Attributes:
        parameters: how many numbers have synapses; of sharded parameters, those that lie here.
        path, anchor, omega: bytes of each; omega takes none before the first consolidation.
        scratch: bytes that steps write over, and that are kept for the next one.

    Example:
        >>> print(Memory(parameters=1000, path=4000, anchor=4000, omega=4000, scratch=0))
        12.0 bytes per parameter: path 4.0, anchor 4.0, omega 4.0, scratch 0.0; 0.0 MB in all
    """

    parameters: int
    path: int
    anchor: int
    omega: int
    scratch: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.path + self.anchor + self.omega + self.scratch

    @property
    def per_parameter(self) -> float:
        """Bytes per number that has synapses."""
        return self.total / max(self.parameters, 1)

    def __str__(self) -> str:
        parts = (("path", self.path), ("anchor", self.anchor), ("omega", self.omega), ("scratch", self.scratch))
        each = ", ".join(f"{name} {held / max(self.parameters, 1):.1f}" for name, held in parts)
        return f"{self.per_parameter:.1f} bytes per parameter: {each}; {self.total / 1e6:.1f} MB in all"


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that the elements of all tensors take, in this process.

    Example:
        >>> import torch
        >>> total_bytes([torch.zeros(2), torch.zeros(3, dtype=torch.bfloat16)])
        14
    """
    return sum(part.numel() * part.element_size() for part in map(local, tensors))
