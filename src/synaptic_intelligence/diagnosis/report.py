"""What a user should know about synapses that do not do what was hoped."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.diagnosis import finding as find
from synaptic_intelligence.diagnosis.classes import Classes
from synaptic_intelligence.diagnosis.finding import Finding
from synaptic_intelligence.diagnosis.movement import Movement
from synaptic_intelligence.diagnosis.pull import is_pulled, penalty, pull_share
from synaptic_intelligence.diagnosis.stability import StrengthOf, stiffest
from synaptic_intelligence.sharding import in_all_processes
from synaptic_intelligence.state import State

# Of torch's optimizers, those whose every step divides by the size of the gradient.
_DIVIDE = {"Adam", "AdamW", "NAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"}


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
    unprotected: Mapping[str, weakref.ref[Tensor]],
    movement: Movement,
    classes: Classes,
    loss: Tensor | None,
    *,
    unheard: bool,
) -> Diagnosis:
    """Look at synapses, their optimizer and the gradients that are there now; change nothing, and warn of nothing.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.
        unprotected: parameters that were named and have no synapses.
        movement: what steps moved in this task.
        classes: the labels that were told of.
        loss: of the task alone; None: not known.
        unheard: whether there is a trigger that hears of no step.

    Where parameters are sharded, every process must call this.

    Raises:
        SynapseError: the optimizer holds others than the parameters of these synapses.

    Example: see :class:`Diagnosis`.
    """
    known = None if loss is None else float(loss)
    held, pulled = float(penalty(binding, state, strength)), is_pulled(binding, state, strength)
    moved, coarse = movement.counts()
    hardest = stiffest(binding, state.omega, strength)
    share, most = pull_share(binding, state, strength) if pulled else (None, None)
    nonfinite = state.nonfinite_steps
    uncovered, covered_share = _uncovered(binding, unprotected)
    found = [
        find.no_penalty(held, pulled, state),
        find.unstable(hardest),
        find.out_of_balance(share, most) if held and state.steps else None,
        find.still(moved, coarse),
        find.over_loss(held, known),
        find.left_out(uncovered, covered_share),
        find.single_head(binding, unprotected, state, classes),
        find.edited(state),
        find.not_finite(nonfinite),
        find.unobserved(movement.steps) if unheard else None,
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
    movement: Movement,
) -> None:
    """Warn of what would spoil the next task, or has spoilt this one, before anything is changed.

    What was warned of is not told again as long as it lasts.

    Args:
        binding, state, strength, movement: as for :func:`diagnose`.
        penalty: now, in units of the loss.
        omega: the importance that the next task will be held by.

    Where parameters are sharded, every process must call this; if a warning is an error in one, it is in all.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding, state = Binding({"w": p}, torch.optim.SGD([p], lr=0.1)), State({"w": p}, integrates_path=True)
        >>> omega, penalty = {"w": torch.tensor([5.0])}, torch.zeros(())
        >>> warn_at_task_end(binding, state, lambda group, names: 1.0, penalty, omega, Movement())
    """
    pulled, (_, coarse) = is_pulled(binding, state, strength), movement.counts()
    nothing_held = find.no_penalty(float(penalty), pulled, state)
    unstable = find.unstable(stiffest(binding, omega, strength))

    def judge() -> None:
        warned = movement.warned
        if pulled and state.steps:
            warned.judge("no-penalty", nothing_held.message if nothing_held else None)
        if unstable is not None:  # if it is none now, at the end of a schedule, steps may still have been
            warned.judge("unstable", unstable.message)
        if coarse.enough:
            finding = find.still_for_want_of_digits(coarse)
            warned.judge("still", finding.message if finding else None)

    in_all_processes(state.parameters.values(), judge)


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
