"""What a user should know about synapses that do not do what was hoped."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from synaptic_intelligence.binding import Binding, living
from synaptic_intelligence.classes import Classes
from synaptic_intelligence.functional import surrogate_gradient, surrogate_loss
from synaptic_intelligence.movement import Counts
from synaptic_intelligence.observed import Observed
from synaptic_intelligence.sharding import is_sharded, placed_like, together, whole
from synaptic_intelligence.stability import Stiffest, StrengthOf, stiffest
from synaptic_intelligence.state import State
from synaptic_intelligence.strength import Strength, folded, pulls

# Where a figure becomes a finding; docs/diagnosis.md shows them.
DOMINATES = 0.99
NEGLIGIBLE = 1e-6
MOSTLY_STILL = 0.5

_NAMES_SHOWN = 5

# Of torch's optimizers, those whose every step divides by the size of the gradient.
_DIVIDE = {"Adam", "AdamW", "NAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"}


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
        pull_share: norm of the pull over the sum of the norms of the task's gradient and the pull, 0 to 1, in the
            parameter where it is the largest; None without gradients or without a pull, NaN where one is not finite.
        most_pulled: the name of that parameter.
        still_share: share of sampled numbers that a step left where they were though they had a gradient, 0 to 1; None
            before a step was looked at.
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
    most_pulled: str | None
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
        if self.optimizer in _DIVIDE:
            return f"no bound: {self.optimizer} divides by the size of the gradient; the pull's share tells instead"
        return f"not known: nothing pulls, or {self.optimizer} is not torch.optim.SGD itself"

    def _pull(self) -> str:
        if self.pull_share is None:
            return "not known, or none: call after optimizer.step(), before zero_grad(), from the second task on"
        if math.isnan(self.pull_share):
            return f"not known: the gradient or the pull in {self.most_pulled!r} is not finite"
        return f"{self.pull_share:.2g} of task gradient and pull, by their norms, in {self.most_pulled!r}"

    def _movement(self) -> str:
        if self.still_share is None:
            return "not known: no step was looked at"
        return f"{self.still_share:.1%} of sampled numbers that had a gradient stayed where they were"


@torch.no_grad()
def diagnose(
    binding: Binding,
    state: State,
    strength: StrengthOf,
    observed: Observed,
    unprotected: Mapping[str, weakref.ref[Tensor]],
) -> Diagnosis:
    """Look at synapses, their optimizer and the gradients that are there now; change nothing, and warn of nothing.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.
        observed: the loss, the labels, and what moved in this task.
        unprotected: parameters that were named and have no synapses.

    Where parameters are sharded, every process must call this.

    Raises:
        SynapseError: the optimizer holds others than the parameters of these synapses.

    Example: see :class:`Diagnosis`.
    """
    known = None if observed.loss is None else float(observed.loss)
    held, pulled = float(penalty(binding, state, strength)), _pulled(binding, state, strength)
    moved, coarse = observed.movement.counts()
    hardest = stiffest(binding, state.omega, strength)
    share, most = _pull_share(binding, state, strength) if pulled else (None, None)
    nonfinite = state.nonfinite_steps
    uncovered, covered_share = _uncovered(binding, unprotected)
    found = [
        _no_penalty(held, pulled, state),
        _unstable(hardest),
        _out_of_balance(share, most) if held and state.steps else None,
        _still(moved, coarse),
        _over_loss(held, known),
        _left_out(uncovered, covered_share),
        _single_head(binding, unprotected, state, observed.classes),
        _edited(state),
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
        most_pulled=most,
        still_share=moved.share,
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

    What was warned of is not told again as long as it lasts.

    Args:
        binding, state, strength, observed: as for :func:`diagnose`.
        penalty: now, in units of the loss.
        omega: the importance that the next task will be held by.

    Where parameters are sharded, every process must call this; if a warning is an error in one, it is in all.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding, state = Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), State({"w": p}, integrates_path=True)
        >>> omega, penalty = {"w": torch.tensor([5.0])}, torch.zeros(())
        >>> warn_at_task_end(binding, state, lambda group, names: 1.0, penalty, omega, Observed())
    """
    pulled, (_, coarse) = _pulled(binding, state, strength), observed.movement.counts()
    nothing_held, unstable = (
        _no_penalty(float(penalty), pulled, state),
        _unstable(stiffest(binding, omega, strength)),
    )

    def judge() -> None:
        warned = observed.movement.warned
        if pulled and state.steps:
            warned.judge("no-penalty", nothing_held.message if nothing_held else None)
        if unstable is not None:  # if it is none now, at the end of a schedule, steps may still have been
            warned.judge("unstable", unstable.message)
        if coarse.enough:
            finding = _still_for_want_of_digits(coarse)
            warned.judge("still", finding.message if finding else None)

    _in_all_processes(state.parameters.values(), judge)


def _in_all_processes(tensors: Iterable[Tensor], action: Callable[[], None]) -> None:
    """Do something that must not communicate; where it raises in one of the processes that share tensors, in all."""
    sharded: Any = [tensor for tensor in tensors if is_sharded(tensor)]
    for mesh in dict.fromkeys(tensor.device_mesh for tensor in sharded):
        for group in mesh.get_all_groups():
            action = partial(together, group, action)
    action()


# The figures.


class _Synapses(NamedTuple):
    """What one parameter is pulled by; placed as the optimizer holds it now, while those of the state stay."""

    name: str
    parameter: Tensor
    anchor: Tensor
    omega: Tensor
    c: Strength


def _pulling(binding: Binding, state: State, strength: StrengthOf) -> list[_Synapses]:
    """Return them for all parameters; none before there is an omega, or if the anchor still follows the weights.

    Raises:
        SynapseError: the optimizer holds other parameters.
    """
    parameters = binding.parameters()
    state.refuse_others(parameters)
    if not state.omega or state.untouched:
        return []
    found = []
    for _, group, names in binding.groups():
        c = strength(group, names)
        for name in names:
            parameter = parameters[name]
            anchor, omega = (
                placed_like(tensor.to(parameter.device), parameter)
                for tensor in (state.anchor[name], state.omega[name])
            )
            found.append(_Synapses(name, parameter, anchor, omega, c))
    return found


@torch.no_grad()
def penalty(binding: Binding, state: State, strength: StrengthOf) -> Tensor:
    """Return the surrogate loss of the parameters as the optimizer holds them now; change nothing.

    Args:
        binding, state, strength: as for :func:`diagnose`.

    Returns:
        A tensor without dimensions, in units of the loss; where parameters are sharded, of all their parts: every
        process must call this.

    Source: Zenke et al. 2017, second term of eq. 4.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding, state = Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), State({"w": p}, integrates_path=True)
        >>> penalty(binding, state, lambda group, names: 1.0)
        tensor(0.)
    """
    first = next(iter(state.anchor.values()))
    zero = torch.zeros((), dtype=first.dtype, device=first.device)
    terms = [
        whole(surrogate_loss(each.parameter, each.anchor, *folded(each.omega, each.c))).to(zero)
        for each in _pulling(binding, state, strength)
    ]
    return torch.stack([zero, *terms]).sum()


def _pulled(binding: Binding, state: State, strength: StrengthOf) -> bool:
    """Return whether any parameter is pulled, if it has moved."""
    return state.tasks > 0 and any(pulls(strength(group, names)) for _, group, names in binding.groups())


def _pull_share(binding: Binding, state: State, strength: StrengthOf) -> tuple[float | None, str | None]:
    """Return how much of the gradient is the pull, by their norms, where it is most, and in which parameter.

    Parameters without a gradient of the task are passed over: these have nothing that a pull could drown.
    """
    names, squares = [], []
    for each in _pulling(binding, state, strength):
        gradient = each.parameter.grad
        if gradient is None or gradient.layout is not torch.strided or not pulls(each.c):
            continue
        pull = surrogate_gradient(each.parameter, each.anchor, *folded(each.omega, each.c))
        names.append(each.name)
        squares += [_square(placed_like(gradient, each.parameter)), _square(pull)]
    if not squares:
        return None, None
    widest = max((square.dtype for square in squares), key=lambda dtype: dtype.itemsize)
    read = torch.stack([square.to(squares[0].device, widest) for square in squares]).sqrt().tolist()
    shares = {}
    for name, task, pull in zip(names, read[::2], read[1::2], strict=True):
        if not math.isfinite(task + pull):
            return math.nan, name
        if task > 0:  # zero as zero_grad(set_to_none=False) leaves it
            shares[name] = pull / (task + pull)
    most = max(shares, key=shares.__getitem__, default=None)
    return (None, None) if most is None else (shares[most], most)


def _square(tensor: Tensor) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return whole(tensor.to(wide).square().sum())


def _uncovered(binding: Binding, unprotected: Mapping[str, weakref.ref[Tensor]]) -> tuple[list[str], float]:
    """Return the names of trained parameters without synapses, and the share of trained numbers with them."""
    covered = {id(parameter): parameter for parameter in binding.parameters().values()}
    named = {id(reference()): name for name, reference in unprotected.items()}
    uncovered = {}
    for index, group in enumerate(binding.optimizer.param_groups):
        names = group.get("param_names")  # torch keeps them where they were given
        for position, parameter in enumerate(group["params"]):
            if parameter.requires_grad and id(parameter) not in covered:
                place = names[position] if names else f"parameter {position} of group {index}"
                uncovered[named.get(id(parameter), place)] = parameter
    held = sum(parameter.numel() for parameter in covered.values() if parameter.requires_grad)
    free = sum(parameter.numel() for parameter in uncovered.values())
    return list(uncovered), held / (held + free) if free else 1.0


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
    return Finding("unstable", str(hardest)) if hardest is not None and hardest.diverges else None


def _out_of_balance(share: float | None, most: str | None) -> Finding | None:
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


def _still(of_all: Counts, coarse: Counts) -> Finding | None:
    if (finding := _still_for_want_of_digits(coarse)) is not None:
        return finding
    if not _mostly_still(of_all):
        return None
    return Finding(
        "still",
        f"{of_all.share:.0%} of the numbers that had a gradient were left by a step exactly where they were: training "
        "may have converged; if it has not, lr is too small for the digits of these parameters, and the path misses "
        "what they would have done: raise lr",
    )


def _still_for_want_of_digits(coarse: Counts) -> Finding | None:
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


def _single_head(
    binding: Binding, unprotected: Mapping[str, weakref.ref[Tensor]], state: State, classes: Classes
) -> Finding | None:
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


def _edited(state: State) -> Finding | None:
    if state.untouched or not state.edited():
        return None
    return Finding(
        "edited",
        "weights were changed since the last step; the change is not part of the path, and the anchor stays: if you "
        "loaded other weights, load the synapses' state too",
    )


def _not_finite(steps: int) -> Finding | None:
    if not steps:
        return None
    return Finding(
        "nonfinite",
        f"{steps} steps had gradients or movements that are not finite, and those elements added nothing to the path: "
        "look for an overflow in the loss",
    )
