"""What may keep synapses from doing what was hoped: from which figure on it is said, and in which words."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from synaptic_intelligence.binding import Binding, living
from synaptic_intelligence.diagnosis.classes import Classes
from synaptic_intelligence.diagnosis.movement import Counts
from synaptic_intelligence.diagnosis.stability import Stiffest
from synaptic_intelligence.state import State

# Where a figure becomes a finding; docs/diagnosis.md shows them.
DOMINATES = 0.99
NEGLIGIBLE = 1e-6
MOSTLY_STILL = 0.5

_NAMES_SHOWN = 5


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps synapses from doing what was hoped.

    Attributes:
        what: a short key that stays the same from version to version, such as ``"unstable"``.
        message: what was found, and what to do.

    Example:
        >>> print(Finding("still", "most steps move nothing: keep float32 parameters"))
        still: most steps move nothing: keep float32 parameters
    """

    what: str
    message: str

    def __str__(self) -> str:
        return f"{self.what}: {self.message}"


def no_penalty(penalty: float, pulled: bool, state: State) -> Finding | None:
    """Find that nothing was held; where all that is important is frozen, nothing has to be."""
    important = [state.parameters[name] for name in state.important]
    frozen = bool(important) and not any(parameter.requires_grad for parameter in important)
    if penalty != 0 or not pulled or not state.steps or frozen:
        return None
    return Finding(
        "no-penalty",
        "the penalty is exactly zero in a further task: omega is zero, or nothing moved, so nothing is held; check "
        "that omega is not all zero, and that the parameters with synapses are trained",
    )


def unstable(hardest: Stiffest | None) -> Finding | None:
    """Find that the pull is too strong for the rate."""
    return Finding("unstable", str(hardest)) if hardest is not None and hardest.diverges else None


def out_of_balance(share: float | None, most: str | None) -> Finding | None:
    """Find that the pull leaves the task no say, or has none itself."""
    if share is not None and share > DOMINATES:
        return Finding(
            "pull-dominates",
            f"the pull is {share:.4f} of the gradient of {most!r}, so that the task has next to no say there: lower c, "
            "unless this task is learnt already",
        )
    if share is not None and share < NEGLIGIBLE:
        return Finding(
            "pull-negligible",
            f"the pull is at most {share:.1e} of the gradient, in {most!r}, so that next to nothing is held: raise c",
        )
    return None


def still(of_all: Counts, coarse: Counts) -> Finding | None:
    """Find that most numbers stay where they are, in parameters of any dtype."""
    if (finding := still_for_want_of_digits(coarse)) is not None:
        return finding
    if not _mostly_still(of_all):
        return None
    return Finding(
        "still",
        f"{of_all.share:.0%} of the numbers that had a gradient were left by a step exactly where they were: training "
        "may have converged; if it has not, lr is too small for the digits of these parameters, and the path misses "
        "what they would have done: raise lr",
    )


def still_for_want_of_digits(coarse: Counts) -> Finding | None:
    """Find that most numbers of parameters in few digits stay where they are."""
    if not _mostly_still(coarse):
        return None
    return Finding(
        "still",
        f"{coarse.share:.0%} of the numbers in 16 bits or fewer that had a gradient were left by a step exactly where "
        "they were, so the path misses what they would have done: keep float32 parameters and use autocast, or raise "
        "lr",
    )


def _mostly_still(counts: Counts) -> bool:
    return counts.enough and counts.share is not None and counts.share > MOSTLY_STILL


def over_loss(penalty: float, loss: float | None) -> Finding | None:
    """Find that the penalty is more than the loss."""
    if loss is None or not 0 < loss < penalty:
        return None
    return Finding(
        "penalty-over-loss",
        f"the penalty {penalty:.3g} is more than the loss {loss:.3g}: if this task is not learnt yet, lower c; if the "
        "penalty grows all the time, lower lr",
    )


def left_out(names: list[str], covered: float) -> Finding | None:
    """Find that something is trained that has no synapses."""
    if not names:
        return None
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if names[_NAMES_SHOWN:] else "")
    return Finding(
        "uncovered",
        f"{1 - covered:.1%} of what is trained has no synapses, and nothing holds it: {shown}; if that is not meant, "
        "name them when the synapses are made, in groups without c=None",
    )


def single_head(
    binding: Binding, unprotected: Mapping[str, weakref.ref[Tensor]], state: State, classes: Classes
) -> Finding | None:
    """Find that new classes have moved the outputs of old ones."""
    if state.sharded:  # processes see other labels each, and would not decide alike what to communicate
        return None
    # The model's order, but for those that were not named, and for how these parts are mixed.
    named = [list(binding.parameters().values()), list(living(unprotected).values())]
    known = {id(parameter) for part in named for parameter in part}
    held = [parameter for group in binding.optimizer.param_groups for parameter in group["params"]]
    moved = classes.outputs_moved([*named, [parameter for parameter in held if id(parameter) not in known]])
    if not moved:
        return None
    return Finding(
        "single-head",
        f"the classes of this task are new, and its loss moves the outputs of {moved} old ones: one head for all "
        "cannot keep classes apart without old data; give each task its own head, or mask the logits of other tasks",
    )


def edited(state: State) -> Finding | None:
    """Find that weights were changed by other hands."""
    if state.untouched or not state.edited():
        return None
    return Finding(
        "edited",
        "weights were changed since the last step; the change is not part of the path, and the anchor stays: if you "
        "loaded other weights, load the synapses' state too",
    )


def not_finite(steps: int) -> Finding | None:
    """Find that steps were not finite."""
    if not steps:
        return None
    return Finding(
        "nonfinite",
        f"{steps} steps had gradients or movements that are not finite, and those elements added nothing to the path: "
        "look for an overflow in the loss",
    )


def unobserved(steps: int) -> Finding:
    """Find that the trigger hears of no step."""
    return Finding(
        "unobserved",
        f"there is a trigger, and of {steps} steps it heard of none, so that it consolidates nothing: call "
        "synapses.observe(loss) after each optimizer.step(), which no integration does by itself",
    )
