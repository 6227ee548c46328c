"""The numbers of the paper and of its authors' stored results, that ours stand beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Target:
    """An average accuracy over all tasks after the last one.

    Args:
        low, high: the range in which it lies, a fraction each; the same number where there is one alone.
        on_training_images: whether it is of training images, not of test images.

    Example:
        >>> str(Target(0.97, 0.99)), str(Target(0.969, 0.969)), round(Target(0.97, 0.99).difference(0.96), 3)
        ('0.97 to 0.99', '0.969', -0.01)
    """

    low: float
    high: float
    on_training_images: bool = False

    def difference(self, ours: float) -> float:
        """Return how far ``ours`` lies outside the range: below zero, beneath it."""
        return min(0.0, ours - self.low) + max(0.0, ours - self.high)

    def __str__(self) -> str:
        return f"{self.low:.3f}" if self.low == self.high else f"{self.low:.2f} to {self.high:.2f}"


def _one(value: float) -> Target:
    return Target(value, value)


# Those of figures 4 and 6 are averages over the tasks of the one run of each strength that is stored beside the code
# (https://github.com/ganguli-lab/pathint: fig_permuted_mnist, fig_transfer_cifar); the two ranges of split MNIST are
# what figure 3 lets one read, which the authors drew from accuracies on training images.
TARGETS: dict[str, dict[tuple[str, float | None], Target]] = {
    "split-mnist": {("si", 0.0): Target(0.70, 0.86, True), ("si", 1.0): Target(0.97, 0.99, True)},
    "permuted-mnist": {
        ("si", 0.0): _one(0.574),
        ("si", 0.01): _one(0.920),
        ("si", 0.02): _one(0.939),
        ("si", 0.1): _one(0.969),
    },
    "split-cifar": {
        ("si", 0.0): _one(0.625),
        ("si", 0.01): _one(0.735),
        ("si", 0.1): _one(0.720),
        ("scratch", None): _one(0.711),
    },
}
"""By experiment, then by method and strength."""
