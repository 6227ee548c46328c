"""When to consolidate where nobody announces a task: by the number of steps, or by the loss."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.errors import SynapseError, warn

__all__ = ["Every", "Plateau", "Trigger"]


class Trigger(Protocol):
    """What tells a :class:`~synaptic_intelligence.Consolidator` when to consolidate.

    Give it to ``synapses.trigger``, and the loss of each step to ``synapses.observe(loss)``. A trigger has state of its
    own, which is saved with that of the synapses: give each synapses their own.

    Example:
        >>> from synaptic_intelligence.triggers import Every
        >>> trigger: Trigger = Every(2)
        >>> trigger.fires(None), trigger.fires(None)
        (False, True)
        >>> trigger.begin()
        >>> trigger.fires(None)
        False
    """

    @property
    def decay(self) -> float:
        """What omega so far is multiplied by when the trigger consolidates, above 0 and at most 1."""

    @property
    def needs_loss(self) -> bool:
        """Whether :meth:`fires` must be given the loss."""

    def fires(self, loss: float | None) -> bool:
        """Return whether to consolidate now; called once after every optimizer step, and again until :meth:`begin`."""

    def begin(self) -> None:
        """Begin anew: a task was consolidated, because the trigger fired or the user said so."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the trigger goes on from: always the same keys, shapes and dtypes, in new tensors."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave, all of it or nothing."""

    def settings(self) -> dict[str, float | str]:
        """Return the settings, as saved with the state."""


@final
class Every:
    """Consolidate after every so many optimizer steps.

    Args:
        steps: of the optimizer between two consolidations, a positive whole number.
        decay: what omega so far is multiplied by when it consolidates, above 0 and at most 1; below 1, old tasks fade.

    Raises:
        TypeError: an argument is not a number.
        ValueError: ``steps`` is not positive and whole, or ``decay`` is not above 0 and at most 1.

    Example:
        >>> import synaptic_intelligence as si
        >>> trigger = si.triggers.Every(3)
        >>> [trigger.fires(None) for _ in range(3)]
        [False, False, True]
    """

    needs_loss: ClassVar[bool] = False

    def __init__(self, steps: int, *, decay: float = 1.0) -> None:
        self.steps, self.decay = _whole(steps, "steps", least=1), _checked_decay(decay)
        self._taken = 0

    def __repr__(self) -> str:
        return f"Every({self.steps}, decay={self.decay})"

    def settings(self) -> dict[str, float | str]:
        """Return ``steps`` and ``decay``."""
        return {"steps": self.steps, "decay": self.decay}

    def fires(self, loss: float | None) -> bool:
        """Return whether so many steps were taken; the loss is not looked at."""
        self._taken = min(self._taken + 1, self.steps)
        return self._taken == self.steps

    def begin(self) -> None:
        """Count from nothing."""
        self._taken = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return ``settings``, float64, and how many steps were ``taken`` since the last consolidation, int64."""
        return {"settings": _as_tensor(self.settings()), "taken": torch.tensor(self._taken)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            SynapseError: it is no state of this trigger, or of other settings; nothing was changed.
        """
        _refuse_other(state, self.state_dict(), self)
        taken = int(state["taken"])
        if not 0 <= taken <= self.steps:
            raise SynapseError(f"the state of {self} is damaged: it has taken {taken} steps; go back to an older one")
        self._taken = taken


@final
class Plateau:
    """Consolidate when the loss has become low and steady, and then not before it has risen in between.

    A window slides over the losses of consecutive steps. It is a plateau where their mean and their standard deviation
    are both below a threshold; the first one fires. The next one fires only after a peak, where the window's mean was
    above that of the last plateau that fired by more than so many of that plateau's standard deviations.

    Args:
        window: how many losses, a whole number of at least 2.
        mean_below: the mean of a plateau is below it, in the unit of the loss (nats, for cross-entropy).
        std_below: the standard deviation of a plateau is below it, positive, in the unit of the loss.
        peak_stds: how far the mean must rise for a peak, in standard deviations of the last plateau; the paper has 1.
        decay: what omega so far is multiplied by when it consolidates, above 0 and at most 1; below 1, old tasks fade.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of its range.

    The window, the two thresholds and the peak of one standard deviation are the paper's, which speaks of the variance
    in place of its root; as in the authors' code it is that of the losses themselves (divided by their number), the
    window goes on sliding when it fires, and one window can be both peak and plateau. Here, other than there, a window
    that is not full yet is none: the authors' code may fire at the first loss. A loss that is not finite is left out,
    with a warning. What is consolidated, and from what, is the synapses' own affair: the paper's Memory Aware Synapses
    and its buffer of hard examples are no part of this.

    Source: Aljundi, Kelchtermans, Tuytelaars 2019, *Task-Free Continual Learning*, section on when to update importance
    weights; the authors' code is github.com/kkelchte/task_free_continual_learning.

    Example:
        >>> import synaptic_intelligence as si
        >>> trigger = si.triggers.Plateau(window=3, mean_below=0.2, std_below=0.05)
        >>> losses = [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8, 0.4, 0.1, 0.1, 0.1]
        >>> for step, loss in enumerate(losses, 1):
        ...     if trigger.fires(loss):
        ...         trigger.begin()
        ...         print(step)
        5
        12
    """

    needs_loss: ClassVar[bool] = True

    def __init__(
        self, *, window: int, mean_below: float, std_below: float, peak_stds: float = 1.0, decay: float = 1.0
    ) -> None:
        self.window = _whole(window, "window", least=2)
        self.mean_below = _checked_mean(mean_below)
        self.std_below = checked_number(std_below, "std_below", zero_is_fine=False)
        self.peak_stds = checked_number(peak_stds, "peak_stds", zero_is_fine=True)
        self.decay = _checked_decay(decay)
        self._losses: deque[float] = deque(maxlen=self.window)
        self._plateau: tuple[float, float] | None = None  # that which was consolidated, until a peak was seen
        self._nonfinite = 0  # losses, at one go

    def __repr__(self) -> str:
        return f"Plateau({', '.join(f'{name}={value}' for name, value in self.settings().items())})"

    def settings(self) -> dict[str, float | str]:
        """Return all arguments."""
        return {
            "window": self.window,
            "mean_below": self.mean_below,
            "std_below": self.std_below,
            "peak_stds": self.peak_stds,
            "decay": self.decay,
        }

    def fires(self, loss: float | None) -> bool:
        """Return whether a plateau was reached that is the first, or the first since a peak.

        Args:
            loss: of this step, in the unit of the thresholds. One that is not finite is left out of the window, never
                fires, and is warned of: once, until a finite one follows.

        Raises:
            TypeError: no loss, or something that is no number.
        """
        value = _checked_loss(loss)
        if not math.isfinite(value):
            if self._nonfinite == 0:
                warn(
                    f"the loss is {value}: it is left out of the trigger's window, and so are those that follow "
                    "until one is finite; look for an overflow in the loss"
                )
            self._nonfinite += 1  # after the warning: where that is an error, the next one is too
            return False
        self._nonfinite = 0
        self._losses.append(value)
        if len(self._losses) < self.window:
            return False
        mean, std = _mean_and_std(self._losses)
        if self._plateau is not None and mean > self._plateau[0] + self.peak_stds * self._plateau[1]:
            self._plateau = None
        return self._plateau is None and self._is_plateau(mean, std)

    def begin(self) -> None:
        """Wait for a peak, if the window is a plateau now; else for the next plateau, as before."""
        if len(self._losses) == self.window and self._is_plateau(*(found := _mean_and_std(self._losses))):
            self._plateau = found

    def _is_plateau(self, mean: float, std: float) -> bool:
        return mean < self.mean_below and std < self.std_below

    def state_dict(self) -> dict[str, Tensor]:
        """Return the window and what was seen before it.

        Returns:
            ``settings``; ``losses``, float64 ``[window]``, oldest first, of which the first ``filled`` count and the
            rest is zero; ``plateau``, float64 ``[2]``, mean and standard deviation of the last one consolidated where
            ``awaits_peak`` is 1, else zero; ``nonfinite``, how many losses in a row were not finite just now. What is
            not float64 is int64, without dimensions.
        """
        missing = [0.0] * (self.window - len(self._losses))
        return {
            "settings": _as_tensor(self.settings()),
            "losses": torch.tensor([*self._losses, *missing], dtype=torch.float64),
            "filled": torch.tensor(len(self._losses)),
            "plateau": torch.tensor(self._plateau or (0.0, 0.0), dtype=torch.float64),
            "awaits_peak": torch.tensor(int(self._plateau is not None)),
            "nonfinite": torch.tensor(self._nonfinite),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            SynapseError: it is no state of this trigger, or of other settings; nothing was changed.
        """
        _refuse_other(state, self.state_dict(), self)
        losses: list[float] = state["losses"].tolist()
        mean, std = state["plateau"].tolist()
        filled, awaits_peak, nonfinite = (int(state[key]) for key in ("filled", "awaits_peak", "nonfinite"))
        could_be = (
            all(map(math.isfinite, [*losses, mean, std]))
            and 0 <= filled <= self.window
            and not any(losses[filled:])
            and (awaits_peak, filled) in ((0, filled), (1, self.window))  # what fired was full
            and (std >= 0 if awaits_peak else mean == std == 0)
            and nonfinite >= 0
        )
        if not could_be:
            raise SynapseError(f"the state of {self} is damaged: its numbers cannot be; go back to an older one")
        self._losses = deque(losses[:filled], maxlen=self.window)
        self._plateau = (mean, std) if awaits_peak else None
        self._nonfinite = nonfinite


def _mean_and_std(losses: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation of the losses themselves, which does not depend on their order."""
    try:
        mean = math.fsum(losses) / len(losses)
    except OverflowError:
        return math.inf, math.inf  # beyond any threshold
    return mean, math.hypot(*(loss - mean for loss in losses)) / math.sqrt(len(losses))


def _whole(value: object, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a whole number such as 100, not {type(value).__name__}")
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _checked_decay(value: object) -> float:
    return checked_number(value, "decay", zero_is_fine=False, most=1.0)


def _checked_mean(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"mean_below must be a number such as 0.2, not {type(value).__name__}")
    if not math.isfinite(value):  # below zero is fine: the loss of a density may be
        raise ValueError(f"mean_below must be finite, not {value!r}")
    return float(value)


def _checked_loss(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Plateau needs the loss of every step, as a number, not {type(value).__name__}")
    return float(value)


def _as_tensor(settings: Mapping[str, float | str]) -> Tensor:
    return torch.tensor([float(value) for value in settings.values()], dtype=torch.float64)


def _refuse_other(state: Mapping[str, Tensor], own: Mapping[str, Tensor], trigger: Trigger) -> None:
    """Raise a SynapseError unless a state has the keys, shapes, dtypes and settings of a trigger's own."""
    if set(state) != set(own):
        raise SynapseError(f"the state of {trigger} has {sorted(own)}, not {sorted(map(str, state))}: load its own")
    for key, like in own.items():
        found: object = state[key]
        if not isinstance(found, Tensor) or found.is_meta or found.layout is not torch.strided:
            raise SynapseError(f"{key!r} in the state of {trigger} is no tensor but {type(found).__name__}")
        if found.shape != like.shape or found.dtype != like.dtype:
            was, is_now = f"{like.dtype} {list(like.shape)}", f"{found.dtype} {list(found.shape)}"
            raise SynapseError(f"{key!r} in the state of {trigger} must be {was}, not {is_now}: load its own")
        if key == "settings" and found.tolist() != like.tolist():
            others = dict(zip(trigger.settings(), found.tolist(), strict=True))
            raise SynapseError(
                f"the state is of a trigger with {others}, and this one is {trigger}: make them alike, or set another "
                "trigger after loading"
            )
