"""What a user should know about synapses that do not do what was hoped."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.classes import Classes
from synaptic_intelligence.errors import warn
from synaptic_intelligence.functional import surrogate_gradient
from synaptic_intelligence.movement import Movement
from synaptic_intelligence.observed import Observed
from synaptic_intelligence.sharding import placed_like, whole
from synaptic_intelligence.stability import Stiffest, stiffest
from synaptic_intelligence.state import State
from synaptic_intelligence.strength import Strength, folded, pulls

StrengthOf: TypeAlias = Callable[[dict[str, Any], list[str]], Strength]

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


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the synapses say of themselves; printed, it is a report for people.

    Attributes:
        tasks: how many were consolidated. steps: taken since.
        optimizer: the class of the optimizer.
        penalty: now, in units of the loss. loss: that which was given or observed; None: neither.
        stability: rate times curvature of the number that is pulled hardest, over the bound from which SGD diverges;
            None where nothing pulls, and for other optimizers. stiffest: the parameter that holds it.
        pull_share: norm of the pull over the sum of the norms of the task's gradient and the pull, over all parameters,
            0 to 1; None without gradients or without a pull, NaN where a gradient is not finite.
        still_share: share of sampled numbers that a step left where they were though they had a gradient, 0 to 1; None
            before the first step.
        covered_share: share of the numbers that the optimizer trains that have synapses, 0 to 1.
        uncovered: names, or places in the optimizer, of the parameters that have none and are trained.
        nonfinite_steps: steps whose gradients or movements were not finite, since they were last warned of.
        findings: what is wrong, or may be; the keys are explained in docs/diagnosis.md.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([p], lr=0.1)
        >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
        >>> for task in range(2):
        ...     optimizer.zero_grad()
        ...     (p - task).square().sum().backward()
        ...     optimizer.step()
        ...     if task == 0:
        ...         _ = synapses.consolidate()
        >>> synapses.c = 50.0
        >>> [finding.what for finding in synapses.diagnose().findings]
        ['unstable']
    """

    tasks: int
    steps: int
    optimizer: str
    penalty: float
    loss: float | None
    stability: float | None
    stiffest: str | None
    pull_share: float | None
    still_share: float | None
    covered_share: float
    uncovered: tuple[str, ...]
    nonfinite_steps: int
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [
            f"tasks       {self.tasks} consolidated, {self.steps} steps since",
            f"penalty     {self.penalty:.3g}{self._beside_loss()}",
            f"stability   {self._stability()}",
            f"pull        {self._pull()}",
            f"movement    {self._movement()}",
            f"covered     {self.covered_share:.1%} of the numbers that are trained",
            f"not finite  {self.nonfinite_steps} steps",
        ]
        found = [f"- {finding}" for finding in self.findings]
        return "\n".join([*lines, "", *(found or ["nothing was found"])])

    def _beside_loss(self) -> str:
        return "; the loss is not known: diagnose(loss)" if self.loss is None else f", the loss {self.loss:.3g}"

    def _stability(self) -> str:
        if self.stability is not None:
            return f"{self.stability:.2g} of the bound, in {self.stiffest!r}; SGD diverges from 1 up"
        return f"no bound: nothing pulls, or {self.optimizer} is no plain SGD"

    def _pull(self) -> str:
        if self.pull_share is None:
            return "not known, or none: call after optimizer.step(), before zero_grad(), from the second task on"
        if math.isnan(self.pull_share):
            return "not known: a gradient is not finite"
        return f"{self.pull_share:.2g} of task gradient and pull, by their norms"

    def _movement(self) -> str:
        if self.still_share is None:
            return "not known: no step was looked at"
        return f"{self.still_share:.1%} of sampled numbers that had a gradient stayed where they were"


@torch.no_grad()
def diagnose(
    binding: Binding,
    state: State,
    strength: StrengthOf,
    penalty: Tensor,
    observed: Observed,
    unprotected: Mapping[str, weakref.ref[Tensor]],
) -> Diagnosis:
    """Look at synapses, their optimizer and the gradients that are there now; change nothing.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses, which follow the optimizer's parameters.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.
        penalty: now, in units of the loss.
        observed: the loss, the labels, and what moved in this task.
        unprotected: parameters that were named and have no synapses.

    Where parameters are sharded, every process must call this.

    Example: see :class:`Diagnosis`.
    """
    known = None if observed.loss is None else float(observed.loss)
    held, movement = float(penalty), observed.movement
    pulled = _pulled(binding, state, strength)
    hardest = stiffest(binding, state.omega, strength)
    share = _pull_share(binding, state, strength) if pulled else None
    nonfinite = state.nonfinite_steps
    uncovered, covered_share = _uncovered(binding, unprotected)
    found = [
        _no_penalty(held, pulled, state),
        _unstable(hardest),
        _out_of_balance(share) if held and state.steps else None,
        _still(movement),
        _over_loss(held, known),
        _left_out(uncovered, covered_share),
        _single_head(binding.optimizer, state, observed.classes),
        _not_finite(nonfinite),
    ]
    return Diagnosis(
        tasks=state.tasks,
        steps=state.steps,
        optimizer=type(binding.optimizer).__name__,
        penalty=held,
        loss=known,
        stability=hardest.ratio if hardest else None,
        stiffest=hardest.name if hardest else None,
        pull_share=share,
        still_share=movement.still_share(),
        covered_share=covered_share,
        uncovered=tuple(uncovered),
        nonfinite_steps=nonfinite,
        findings=tuple(finding for finding in found if finding is not None),
    )


@torch.no_grad()
def warn_at_task_end(
    binding: Binding,
    state: State,
    strength: StrengthOf,
    penalty: Tensor,
    omega: Mapping[str, Tensor],
    observed: Observed,
) -> None:
    """Warn of what would spoil the next task, or has spoilt this one, before anything is changed.

    Args:
        binding, state, strength, penalty, observed: as for :func:`diagnose`.
        omega: the importance that the next task will be held by.

    Where parameters are sharded, every process must call this.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding, state = Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), State({"w": p}, integrates_path=True)
        >>> omega, penalty = {"w": torch.tensor([5.0])}, torch.zeros(())
        >>> warn_at_task_end(binding, state, lambda group, names: 1.0, penalty, omega, Observed())
    """
    found = [
        _no_penalty(float(penalty), _pulled(binding, state, strength), state),
        _unstable(stiffest(binding, omega, strength)),
        _still(observed.movement),
        _single_head(binding.optimizer, state, observed.classes),
    ]
    for finding in found:
        if finding is not None:
            warn(finding.message)


# The figures.


def _pulled(binding: Binding, state: State, strength: StrengthOf) -> bool:
    """Return whether any parameter is pulled, if it has moved."""
    return state.tasks > 0 and any(pulls(strength(group, names)) for _, group, names in binding.groups())


def _pull_share(binding: Binding, state: State, strength: StrengthOf) -> float | None:
    """Return how much of the gradient is the pull, by the norms over all parameters; None without gradients."""
    task = pull = 0.0
    for _, group, names in binding.groups():
        c = strength(group, names)
        for name in names:
            parameter = state.parameters[name]
            gradient = parameter.grad
            if gradient is not None and gradient.layout is torch.strided:
                task += _square(placed_like(gradient, parameter))
            if pulls(c):
                pull += _square(surrogate_gradient(parameter, state.anchor[name], *folded(state.omega[name], c)))
    if task == 0:  # as zero_grad(set_to_none=False) leaves them
        return None
    if not math.isfinite(task + pull):
        return math.nan
    return math.sqrt(pull) / (math.sqrt(task) + math.sqrt(pull))


def _square(tensor: Tensor) -> float:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return float(whole(tensor.to(wide).square().sum()))


def _uncovered(binding: Binding, unprotected: Mapping[str, weakref.ref[Tensor]]) -> tuple[list[str], float]:
    """Return the names of trained parameters without synapses, and the share of numbers with them."""
    covered = {id(parameter): parameter for parameter in binding.parameters().values()}
    named = {id(reference()): name for name, reference in unprotected.items()}
    uncovered = {}
    for index, group in enumerate(binding.optimizer.param_groups):
        names = group.get("param_names")  # torch keeps them where they were given
        for position, parameter in enumerate(group["params"]):
            if parameter.requires_grad and id(parameter) not in covered:
                place = names[position] if names else f"parameter {position} of group {index}"
                uncovered[named.get(id(parameter), place)] = parameter
    held = sum(parameter.numel() for parameter in covered.values())
    free = sum(parameter.numel() for parameter in uncovered.values())
    return list(uncovered), held / max(held + free, 1)


# The findings.


def _no_penalty(penalty: float, pulled: bool, state: State) -> Finding | None:
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


def _unstable(hardest: Stiffest | None) -> Finding | None:
    if hardest is None or hardest.ratio < 1:
        return None
    c = "multiply c by less than" if hardest.c is None else "set c below"
    largest = hardest.largest_times * (1.0 if hardest.c is None else hardest.c)
    return Finding(
        "unstable",
        f"the pull on {hardest.name!r} is {hardest.ratio:.3g} times what SGD can follow, so that weights swing ever "
        f"wider: {c} {largest:.3g}, or lr below {hardest.largest_lr:.3g}",
    )


def _out_of_balance(share: float | None) -> Finding | None:
    if share is not None and share > DOMINATES:
        return Finding(
            "pull-dominates",
            f"the pull is {share:.4f} of the gradient, so that the task has next to no say: lower c, unless this task "
            "is learnt already",
        )
    if share is not None and share < NEGLIGIBLE:
        return Finding(
            "pull-negligible",
            f"the pull is {share:.1e} of the gradient, so that next to nothing is held: raise c",
        )
    return None


def _still(movement: Movement) -> Finding | None:
    share = movement.still_share()
    if share is None or not movement.enough or share <= MOSTLY_STILL:
        return None
    return Finding(
        "still",
        f"{share:.0%} of the numbers that had a gradient were left by a step exactly where they were, so the path "
        "misses what they would have done: keep float32 parameters and use autocast, or raise lr",
    )


def _over_loss(penalty: float, loss: float | None) -> Finding | None:
    if loss is None or not 0 < loss < penalty:
        return None
    return Finding(
        "penalty-over-loss",
        f"the penalty {penalty:.3g} is more than the loss {loss:.3g}: if this task is not learnt yet, lower c; if the "
        "penalty grows all the time, lower lr",
    )


def _left_out(names: list[str], covered: float) -> Finding | None:
    if not names:
        return None
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if names[_NAMES_SHOWN:] else "")
    return Finding(
        "uncovered",
        f"{1 - covered:.1%} of what is trained has no synapses, and nothing holds it: {shown}; if that is not meant, "
        "name them when the synapses are made, in groups without c=None",
    )


def _single_head(optimizer: Optimizer, state: State, classes: Classes) -> Finding | None:
    # Of sharded parameters processes see other labels each, and would not decide alike what to communicate.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moved = 0 if state.sharded else classes.outputs_moved(parameters)
    if not moved:
        return None
    return Finding(
        "single-head",
        f"the classes of this task are new, and its loss moves the outputs of {moved} old ones: one head for all "
        "cannot keep classes apart without old data; give each task its own head, or mask the logits of other tasks",
    )


def _not_finite(steps: int) -> Finding | None:
    if not steps:
        return None
    return Finding(
        "nonfinite",
        f"{steps} steps had gradients or movements that are not finite, and those elements added nothing to the path: "
        "look for an overflow in the loss",
    )
