"""What the step in one pass has to know of one of torch's optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from synaptic_intelligence import compiled

Options = dict[str, Any]
"""A parameter group."""

Moments = Mapping[str, Any]
"""What the optimizer's state holds of a parameter; the synapses' tensors are in it too."""


@final
@dataclass(frozen=True)
class Kind:
    """One of torch's optimizers: which rule of kernel.c steps it, and how torch keeps its state.

    Attributes:
        rule: of kernel.c, and of compiled.py.
        names: under which torch keeps its own state of a parameter.
        needed: options of a group without which a state is of another optimizer.
        known: whether the rule computes what a group's options ask for.
        make: makes what torch would make at a parameter's first step, where it is not there yet.
        begin: given the group with its learning rate as a number, counts the step, and returns the numbers that the
            rule takes, the pull among them. It may make a moment that ``make`` leaves to the first step.
        walked: returns the three moments that the rule takes.
        offered: returns the moments of a parameter that has made no step, and what a state_dict says of them beside.
        lacking: returns the names without which torch would fail on what is loaded for a parameter.
        settle: turns what was offered and loaded into what steps work on.
    """

    rule: compiled.Rule
    names: tuple[str, ...]
    needed: tuple[str, ...]
    known: Callable[[Options], bool]
    make: Callable[[Options, dict[str, Any], Tensor], None]
    begin: Callable[[Options, dict[str, Any], Tensor, float], list[float]]
    walked: Callable[[Options, Moments], tuple[Tensor | None, ...]]
    offered: Callable[[Options, Moments, Tensor], dict[str, Tensor]]
    lacking: Callable[[Options, Moments], list[str]]
    settle: Callable[[dict[str, Any]], None]
