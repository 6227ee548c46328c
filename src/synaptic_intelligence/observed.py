"""What is seen of the training beside the path: losses and labels that users tell of, and what steps moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor

from synaptic_intelligence.diagnosis.classes import Classes
from synaptic_intelligence.diagnosis.movement import Movement
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import Importance
from synaptic_intelligence.sharding import mean_over_processes
from synaptic_intelligence.state import State
from synaptic_intelligence.triggers import Trigger

_METHODS = ("fires", "begin", "state_dict", "load_state_dict", "settings")
_VALUES = ("decay", "needs_loss")


@final
class Observed:
    """The loss of the last step that was told of, the trigger that hears it, and what a diagnosis is made from.

    Attributes:
        loss: in the loss's own unit, on the device of the parameters; None before the first.
        trigger: what decides when a task ends; None where the user does.
        classes: the labels that were told of.
        movement: what steps moved; they tell it themselves.

    Example:
        >>> observed = Observed()
        >>> observed.fired(torch.tensor([0.5]), None, torch.device("cpu"), steps=1)
        False
        >>> observed.loss
        tensor(0.5000, dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.trigger: Trigger | None = None
        self.classes, self.movement = Classes(), Movement()
        self._told = -1  # how many steps were taken when the last loss was told

    def fired(self, loss: float | Tensor, targets: Tensor | None, device: torch.device, steps: int) -> bool:
        """Note the loss of a step, and return whether the trigger ends a task with it.

        Args:
            loss: a number, or a tensor with one element.
            targets: the labels of the batch; None: not known.
            device: where the loss is kept.
            steps: how many were taken in this task; the trigger hears of each once, however often losses are told.

        Raises:
            ValueError: it has more than one element, or none.
            TypeError: it is neither a number nor a tensor.
        """
        told = _one_number(loss, device)
        if targets is not None:
            self.classes.observe(targets)
        self.loss = told
        stepped, self._told = steps > 0 and steps != self._told, steps
        if self.trigger is None or not stepped:
            return False
        return self.trigger.fires(mean_over_processes(told) if self.trigger.needs_loss else None)

    def take_trigger(self, trigger: Trigger | None, importance: Importance, state: State) -> None:
        """Set the trigger.

        Args:
            trigger: None takes it away.
            importance: the estimator of the synapses that it is to consolidate.
            state: of these synapses.

        Raises:
            TypeError: it is no trigger, or importance is estimated from data, which no trigger has.
            ValueError: its decay is none, or one that the omega of these synapses has not the digits for.
        """
        if trigger is not None:
            _refuse_no_trigger(trigger)
            if importance.needs_data:
                raise TypeError(f"a trigger has no data to give, and {importance.name} needs some: consolidate(data)")
            state.checked_decay(trigger.decay)
        self.trigger = trigger

    def loss_or(self, loss: float | Tensor | None) -> Tensor | None:
        """Return a loss as :meth:`fired` notes it; None stands for the one that was noted.

        Raises:
            ValueError, TypeError: as :meth:`fired`.
        """
        return self.loss if loss is None else _one_number(loss, torch.device("cpu"))

    @property
    def unheard(self) -> bool:
        """Whether there is a trigger that hears of no step."""
        return self.trigger is not None and self.loss is None and self.movement.steps > 1

    def expect_step(self) -> None:
        """Take the next step as one whose loss was not told yet: where steps are counted anew."""
        self._told = -1

    def end_task(self) -> None:
        """Begin the next task."""
        self.expect_step()
        self.classes.end_task()
        self.movement.end_task()
        if self.trigger is not None:
            self.trigger.begin()

    def take_from(self, other: Observed) -> None:
        """Take over what synapses have seen that end here, but what moved, which their own steps go on with."""
        self.loss, self.trigger, self.classes = other.loss, other.trigger, other.classes

    def state(self) -> dict[str, Any]:
        """Return the trigger's state as an entry of a state_dict; nothing where there is no trigger."""
        return {} if self.trigger is None else {"trigger": self.trigger.state_dict()}

    @contextmanager
    def loading(self, state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Load the trigger's entry of a state_dict, and yield the rest; if loading that raises, it is as it was.

        Raises:
            SynapseError: it is no state of this trigger; nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise SynapseError(f"this is no state of synapses, but {type(state).__name__}: load what state_dict() gave")
        self.expect_step()
        rest = {key: value for key, value in state.items() if key != "trigger"}
        entry = state.get("trigger")
        if self.trigger is None or entry is None:
            if self.trigger is not None:
                warn("the state has none of a trigger: this one goes on as it is")
            if entry is not None:
                warn("the state has that of a trigger, and there is none: set synapses.trigger before it is loaded")
            yield rest
            return
        if not isinstance(entry, Mapping):
            raise SynapseError(f"the state has a {type(entry).__name__} as trigger, which cannot be")
        before = deepcopy(self.trigger.state_dict())
        self.trigger.load_state_dict(entry)
        try:
            yield rest
        except BaseException:
            self.trigger.load_state_dict(before)
            raise


def _refuse_no_trigger(trigger: Any) -> None:
    """Raise a TypeError unless this has the members of a trigger."""
    such = "trigger must be such as si.triggers.Every(1000), or None"
    if isinstance(trigger, type):
        raise TypeError(f"{such}: {trigger.__name__} is the class, make one of it")
    for member in _METHODS:
        if not callable(getattr(trigger, member, None)):
            raise TypeError(f"{such}: {trigger!r} has no {member}()")
    for member in _VALUES:
        if getattr(trigger, member, None) is None:
            raise TypeError(f"{such}: {trigger!r} has no {member}")


def _one_number(loss: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must have one element, as a mean over the batch has, not {list(loss.shape)}")
        loss = loss.detach().reshape(())
    elif isinstance(loss, bool) or not isinstance(loss, Real):
        raise TypeError(f"loss must be a number, or a tensor with one element, not {type(loss).__name__}")
    wide = torch.float64 if device.type == "cpu" else torch.float32
    return torch.as_tensor(loss, dtype=wide, device=device).clone()
